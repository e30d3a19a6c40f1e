#!/bin/sh
# Makes .venv, with everything tfx-mobile needs, from uv.lock.
#
# Does: finds a Python that TFX has wheels for, makes .venv with it, installs what uv.lock says with the uv that
# uv.lock says, compiles bytecode. The second time it only compares a stamp. An interrupted run is started over.
# Does not: install a Python, a compiler or any system package (it says which are missing), or touch anything
# outside .venv and the package cache.
#
#   sh tools/setup.sh [--quiet] [--find]
#     --quiet   print nothing when .venv is up to date
#     --find    print the Python it would use ("3.10.13 stable /usr/bin/python3.10") and stop
#   PYTHON=...  use this interpreter and no other
#
# Exit status: 0 done; 1 the installation failed; 2 nothing here to install with, or wrong usage.

set -eu

ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
cd "$ROOT"
VENV=$ROOT/.venv
STAMP=$VENV/.setup-stamp            # the file that means "complete": written last
INCOMPLETE=$VENV/.setup-incomplete  # there while an installation runs, so that a broken one is seen
GLIBC_OF_LATEST_LANE=2.39
# Searched after PATH, because a user's PATH may lack them. The tests point it at an empty folder.
SYSTEM_DIRS=${TFX_MOBILE_SYSTEM_DIRS-/usr/local/bin:/usr/bin}

QUIET=no
FIND=no
for argument in "$@"; do
  case $argument in
    --quiet) QUIET=yes ;;
    --find) FIND=yes ;;
    *) echo "setup: unknown argument '$argument'; known are --quiet and --find." >&2; exit 2 ;;
  esac
done

# Settings of the caller that would send pip, uv or Python elsewhere.
unset PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX VIRTUAL_ENV PIP_USER PIP_TARGET PIP_PREFIX \
  UV_LOCKED UV_PYTHON UV_PROJECT UV_NO_DEV UV_NO_DEFAULT_GROUPS UV_NO_EDITABLE || :

say() { echo "setup: $*"; }

# ---------------------------------------------------------------------------------------------- which Python

# Prints "MINOR VERSION PROBLEM" of the interpreter it runs under (PROBLEM is "-" when there is none), then its
# prefix, then its executable; of the base interpreter when it runs in a virtual environment.
# Runs under any Python from 2.7 on, so that an old one is refused by its version and not by a syntax error.
PROBE='
import os, sys
v = sys.version_info
problem = "-"
def missing(names):
    for name in names:
        try:
            __import__(name)
        except ImportError:
            return name
if v[0] == 3 and v[1] >= 6:
    import platform, sysconfig
    lacks = missing(["ssl", "zlib", "ctypes"])
    if platform.python_implementation() != "CPython":
        problem = "not-CPython"
    elif v[3] != "final":
        problem = "pre-release"
    elif sysconfig.get_config_var("Py_GIL_DISABLED"):
        problem = "free-threaded"
    elif sys.maxsize < 2**32:
        problem = "32-bit"
    elif missing(["venv", "ensurepip"]):
        problem = "no-venv"
    elif lacks:
        problem = "no-" + lacks
    elif v[:2] == (3, 10) and not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
        problem = "no-headers"
prefix = getattr(sys, "base_prefix", sys.prefix)
executable = sys.executable
if prefix != sys.prefix:
    executable = os.path.join(prefix, "bin", "python%d.%d" % v[:2])
print("%d.%d %d.%d.%d %s" % (v[0], v[1], v[0], v[1], v[2], problem))
print(os.path.realpath(prefix))
print(executable)
'

glibc_version() {
  answer=$(getconf GNU_LIBC_VERSION 2>/dev/null) || answer=   # "glibc 2.36", or nothing with another C library
  case $answer in "glibc "*) echo "${answer#glibc }" ;; *) echo none ;; esac
}

at_least() {  # at_least 2.39 2.36: false
  [ "$2" != none ] && [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]
}

has_cxx() { command -v "${CXX:-c++}" >/dev/null 2>&1 || command -v g++ >/dev/null 2>&1; }

lane_of() { case $1 in 3.10) echo stable ;; *) echo latest ;; esac; }

# The line of a failed command's output that says why: the last of a traceback, otherwise the first.
gist() {
  case $1 in
    Traceback*) printf '%s\n' "$1" | sed -n '$p' ;;
    *) printf '%s\n' "$1" | sed -n '/./{p;q;}' ;;
  esac
}

# Runs candidate $1. Sets MINOR, VERSION, PREFIX, EXECUTABLE and WHY_NOT (empty: it will do).
probe() {
  MINOR='' VERSION='' PREFIX='' EXECUTABLE='' WHY_NOT=''
  if ! answer=$("$1" -E -s -c "$PROBE" 2>&1 </dev/null); then
    WHY_NOT="does not run: $(gist "$answer")"
    return 0
  fi
  {
    IFS=' ' read -r MINOR VERSION problem
    IFS= read -r PREFIX || :
    IFS= read -r EXECUTABLE || :
  } <<ANSWER
$answer
ANSWER
  case $MINOR in
    3.10)
      if ! has_cxx; then
        WHY_NOT="needs a C++ compiler beside it, to build pyfarmhash: apt install g++"
      fi ;;
    3.11 | 3.12 | 3.13)
      if ! at_least "$GLIBC_OF_LATEST_LANE" "$GLIBC"; then
        WHY_NOT="TFX for Python $MINOR needs glibc $GLIBC_OF_LATEST_LANE or newer; here it is $GLIBC"
      fi ;;
    [0-9]*) WHY_NOT="TFX does not support Python $MINOR" ;;
    *) WHY_NOT="does not answer like a Python: $(gist "$answer")" ;;
  esac
  [ -z "$WHY_NOT" ] || return 0
  case $problem in
    -) ;;
    no-venv) WHY_NOT="cannot make virtual environments: apt install python$MINOR-venv" ;;
    no-headers) WHY_NOT="lacks Python.h, to build pyfarmhash: apt install python$MINOR-dev" ;;
    no-*) WHY_NOT="was built without the module ${problem#no-}" ;;
    *) WHY_NOT="is a $problem build" ;;
  esac
}

# Prints the places where Python $1 may be, one a line, in the order of preference.
candidates() {
  printf '%s\n' "$PATH:$SYSTEM_DIRS" | tr ':' '\n' | while IFS= read -r folder; do
    folder=$([ -z "$folder" ] || { CDPATH='' cd -- "$folder" 2>/dev/null && pwd -P; }) || continue
    for name in "python$1" python3 python; do
      [ ! -x "$folder/$name" ] || printf '%s\n' "$folder/$name"
    done
  done
  if command -v uv >/dev/null 2>&1; then
    uv python find --system --no-python-downloads "$1" 2>/dev/null || :
  fi
  for installed in \
    "${UV_PYTHON_INSTALL_DIR:-${XDG_DATA_HOME:-${HOME:-}/.local/share}/uv/python}/cpython-$1"* \
    "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/$1".*; do
    [ ! -x "$installed/bin/python$1" ] || printf '%s\n' "$installed/bin/python$1"
  done | sort -rV
}

# Sets CHOSEN (the base interpreter), CHOSEN_VERSION and LANE, or explains and stops with status 2.
find_python() {
  GLIBC=$(glibc_version)
  if [ "$(uname -s)" != Linux ] || [ "$(uname -m)" != x86_64 ] || [ "$GLIBC" = none ]; then
    say "TFX has wheels for Linux with glibc on x86_64 only; this is $(uname -s) on $(uname -m), glibc $GLIBC." >&2
    exit 2
  fi
  if [ -n "${PYTHON:-}" ]; then
    probe "$PYTHON"
    if [ -n "$WHY_NOT" ]; then
      say "PYTHON=$PYTHON will not do${VERSION:+ ($VERSION)}: $WHY_NOT. Use Python 3.10, or 3.11 to 3.13 with glibc" \
        "$GLIBC_OF_LATEST_LANE, or leave PYTHON out to have one searched for." >&2
      exit 2
    fi
    choose
    return
  fi
  if [ -x "$VENV/bin/python" ]; then  # what made .venv stays, so that PYTHON need not be repeated
    probe "$VENV/bin/python"
    if [ -z "$WHY_NOT" ] && [ -x "$EXECUTABLE" ]; then
      choose
      return
    fi
  fi
  seen=
  found=
  for wanted in 3.10 3.13 3.12 3.11; do
    places=$(candidates "$wanted")
    while IFS= read -r place; do
      [ -n "$place" ] || continue
      case "$seen" in *"<$wanted $place>"*) continue ;; esac
      seen="$seen<$wanted $place>"
      probe "$place"
      if [ -n "$WHY_NOT" ]; then
        case "$seen" in *"<refused ${PREFIX:-$place} $VERSION>"*) continue ;; esac
        seen="$seen<refused ${PREFIX:-$place} $VERSION>"
        found="$found    $place  ${VERSION:+$VERSION }$WHY_NOT
"
      elif [ "$MINOR" = "$wanted" ]; then
        choose
        return
      fi
    done <<PLACES
$places
PLACES
  done
  explain >&2
  exit 2
}

choose() { CHOSEN=$EXECUTABLE CHOSEN_VERSION=$VERSION CHOSEN_PREFIX=$PREFIX LANE=$(lane_of "$MINOR"); }

explain() {
  say "no Python here will do."
  echo "  Needed: Python 3.10, or Python 3.11 to 3.13 with glibc $GLIBC_OF_LATEST_LANE or newer (here: glibc $GLIBC)."
  echo "  Found:"
  printf '%s' "${found:-    none
}"
  echo "  Install one of these, then run the same command again:"
  if at_least "$GLIBC_OF_LATEST_LANE" "$GLIBC"; then
    echo "    apt:    apt install python3 python3-venv          (as root)"
  elif [ "$GLIBC" = 2.35 ]; then
    echo "    apt:    apt install python3.10-venv python3.10-dev g++          (as root, on Ubuntu 22.04)"
  fi
  echo "    pyenv:  pyenv install 3.10"
  if command -v uv >/dev/null 2>&1; then
    echo "    uv:     uv python install 3.10"
  else
    echo "    uv:     pipx install uv && uv python install 3.10"
  fi
  has_cxx || echo "  Python 3.10 also needs a C++ compiler: apt install g++"
  echo "  Or name one that is elsewhere: make setup PYTHON=/path/to/python3.10"
}

# ------------------------------------------------------------------------------------------------- the stamp

fingerprint() {
  cat pyproject.toml uv.lock tools/setup.sh | sha256sum | cut -d ' ' -f 1
}

# Sets RUNS to "VERSION PREFIX" of the interpreter that .venv runs on; fails when it runs on none.
ask_venv() {
  RUNS=$("$VENV/bin/python" -I -S -c '
import os, sys
print("%d.%d.%d" % sys.version_info[:3], os.path.realpath(sys.base_prefix))' 2>/dev/null)
}

# What the stamp must say for .venv to be complete: the project's files, the checkout's path, the interpreter.
# Asks .venv itself, so that an interpreter that was removed or replaced is noticed.
expected_stamp() {
  ask_venv || return 1
  printf '%s\n%s\n%s\n' "$(fingerprint)" "$VENV" "$RUNS"
}

is_up_to_date() {
  [ -f "$STAMP" ] && [ ! -e "$INCOMPLETE" ] || return 1
  stamp=$(expected_stamp) || return 1
  [ "$stamp" = "$(cat "$STAMP")" ] || return 1
  RUNS=$(sed -n 3p "$STAMP")
  [ -n "${PYTHON:-}" ] || return 0
  find_python
  [ "$RUNS" = "$CHOSEN_VERSION $CHOSEN_PREFIX" ]
}

report_up_to_date() {
  [ "$QUIET" = yes ] || say ".venv is up to date (Python ${RUNS%% *}, $(lane_of "$(echo "${RUNS%% *}" | cut -d . -f 1-2)") lane)."
}

# ------------------------------------------------------------------------------------------------ the .venv

# Why .venv cannot be kept as it is; prints nothing when it can. Its scripts hold its absolute path.
reason_to_remake() {
  [ ! -e "$INCOMPLETE" ] || { echo "an earlier set-up was interrupted"; return; }
  ask_venv || { echo "its Python is gone"; return; }
  [ "$RUNS" = "$CHOSEN_VERSION $CHOSEN_PREFIX" ] || { echo "another Python made it ($RUNS)"; return; }
  case $(head -n 2 "$VENV/bin/pip" 2>/dev/null || :) in
    "#!$VENV/bin/python"* | *"'''exec' "?"$VENV/bin/python"*) ;;
    *) echo "it was copied, moved or made without pip" ;;
  esac
}

version_of_uv_in_lock() { sed -n '/^name = "uv"$/{n;s/^version = "\(.*\)"$/\1/p;q;}' uv.lock; }

# uv.lock's hashes of uv's own wheels, so that what installs everything else is checked as well.
hashes_of_uv_in_lock() {
  sed -n '/^name = "uv"$/,/^\[\[package\]\]$/s/.*hash = "\(sha256:[0-9a-f]*\)".*/--hash=\1/p' uv.lock | tr '\n' ' '
}

# Sets UV to a uv that runs: the one in .venv, one on PATH that is not older than uv.lock's, or installs it.
get_uv() {
  pinned=$(version_of_uv_in_lock)
  UV=$VENV/bin/uv
  case $("$UV" --version 2>/dev/null || :) in "uv $pinned"*) return ;; esac
  UV=$(command -v uv || :)
  if [ -n "$UV" ]; then
    version=$("$UV" --version 2>/dev/null | cut -d ' ' -f 2) || version=
    if [ -n "$version" ] && at_least "$pinned" "$version"; then return; fi
  fi
  say "installing uv $pinned"
  echo "uv==$pinned $(hashes_of_uv_in_lock)" > "$VENV/.setup-uv"
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-user --no-deps --only-binary :all: \
    --require-hashes -r "$VENV/.setup-uv"
  rm -f "$VENV/.setup-uv"
  UV=$VENV/bin/uv
}

# Says every 20 s that it goes on. Ends by itself, within a second of the installation's end or this shell's death.
start_heartbeat() {
  (
    elapsed=0
    while sleep 1 >/dev/null 2>&1 && [ -e "$INCOMPLETE" ] && [ -e "/proc/$$/exe" ]; do
      elapsed=$((elapsed + 1))
      [ $((elapsed % 20)) -ne 0 ] || say "  still at it, $elapsed s"
    done
  ) 9>&- &
}

install() {
  started=$(date +%s)
  why=
  [ ! -e "$VENV" ] && [ ! -L "$VENV" ] || why=$(reason_to_remake)
  say "Python $CHOSEN_VERSION at $CHOSEN: the $LANE lane"
  rm -f "$STAMP"
  if [ -n "$why" ]; then
    say "making .venv anew: $why"
    rm -rf "$VENV"
  fi
  if [ ! -d "$VENV" ]; then
    mkdir "$VENV"
    : > "$INCOMPLETE"
    "$CHOSEN" -m venv "$VENV"
  fi
  : > "$INCOMPLETE"
  get_uv
  say "installing what uv.lock says (3.5 GiB on disk; minutes when it must be downloaded)"
  start_heartbeat
  # --python: without it uv would obey .python-version and throw a latest-lane .venv away.
  # --quiet leaves errors and hides 250 lines of package names.
  if ! UV_PROJECT_ENVIRONMENT=$VENV UV_PYTHON_DOWNLOADS=never \
    "$UV" sync --frozen --compile-bytecode --quiet --no-progress --python "$VENV/bin/python"; then
    say "installing failed; the lines above say why. Running the same command again starts over." >&2
    exit 1
  fi
  stamp=$(expected_stamp)
  rm -f "$INCOMPLETE"
  printf '%s\n' "$stamp" > "$STAMP.new"
  mv -f "$STAMP.new" "$STAMP"
  say ".venv is ready, after $(($(date +%s) - started)) s."
}

trap 'exit 130' INT
trap 'exit 143' TERM HUP

if [ "$FIND" = yes ]; then
  find_python
  echo "$CHOSEN_VERSION $LANE $CHOSEN"
  exit 0
fi
if is_up_to_date; then
  report_up_to_date
  exit 0
fi
find_python
# One set-up at a time. The lock is on this very file, so it leaves nothing behind; where there is no flock, or the
# file system has no locks, go on without.
exec 9< "$ROOT/tools/setup.sh"
if command -v flock >/dev/null 2>&1 && ! flock -n 9 2>/dev/null; then
  say "another set-up of this checkout is running; waiting for it"
  flock 9 2>/dev/null || :
fi
if is_up_to_date; then
  report_up_to_date
else
  install
fi
