"""What the registry costs: publishing, fetching, its own files, many phones at once, the bytes of an update.

Beside each number is what one would do without it: copy the file, or download it with urllib. Phones fetch
through nginx where there is one, over loopback; bytes are those of its own log. run.py prints the tables.
"""

import concurrent.futures
import contextlib
import gzip
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pruning import Table

from tfx_mobile.registry import records
from tfx_mobile.registry.client import Client
from tfx_mobile.registry.store import Registry

MODEL = "taxi-fare"
FILE_BYTES = 350_000
PHONES = 100
PUBLISHED = (0, 100, 1000)  # versions that are there already
_FIGURES = {
    "figures": {
        "candidate": "s75-int8",
        "rung": "s75",
        "mode": "int8",
        "size_bytes": FILE_BYTES,
        "gz_size_bytes": 250_000,
        "eval_rows": 10_000,
        "metrics": {"rmse_ppm": 3_012_345, "mae_ppm": 1_569_000},
        "latency_p50_ns": 64_700,
    },
    "verdict": "BLESSED: s75-int8 passes all 4 gates.",
    "pipeline": "taxi-fare",
    "pipeline_run": "2026-01-01T00:00:00",
    "model_artifact": "41",
}


def registry() -> Iterator[Table]:
    """Yields what publishing, fetching and updating take, and what the registry's own files do."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        large = Registry.create(folder / "large")
        yield _publishing(large, folder)
        yield _own_files(large)
        yield _fetching(large, folder)
        yield _together(folder)
        yield _updating(folder)


def _publishing(large: Registry, folder: Path) -> Table:
    content = iter(lambda: os.urandom(FILE_BYTES), b"")
    copy_s = _median_s(lambda: _copy(next(content), folder / "copy"), 9)
    lines = [("a plain copy, flushed to disk", f"{copy_s:.3f}", "1.0", "")]
    for count in PUBLISHED:
        _fill(large, count)
        times = [_seconds(lambda: _publish(large, next(content))) for _ in range(5)]
        middle = statistics.median(times)
        what = f"publish, {count:,} versions there"
        lines.append((what, f"{middle:.3f}", f"{middle / copy_s:.0f}", f"{max(times):.3f}"))
    return Table(
        f"Publishing {FILE_BYTES:,} bytes: signed, written, read back; without a delta",
        ("what", "median s", "times a copy", "slowest s"),
        lines,
    )


def _own_files(large: Registry) -> Table:
    versions = len(large.versions(MODEL))
    newest = max(
        (large.repository / "metadata").glob(f"*.model-{MODEL}.json"),
        key=lambda path: int(path.name.split(".")[0]),
    )
    role = newest.read_bytes()
    note = next((large.repository / "targets").glob(f"{MODEL}/{versions}/*.record.json")).read_bytes()
    top = sum(
        max((large.repository / "metadata").glob(f"*{name}.json"), key=lambda path: path.stat().st_mtime_ns)
        .stat()
        .st_size
        for name in ("root", "timestamp", "snapshot", "targets")
    )
    rows = [
        ("role of the model, which phones read", len(role) / versions, len(gzip.compress(role)) / versions),
        ("record of a version, which they do not", len(note), len(gzip.compress(note))),
        ("root, timestamp, snapshot, targets, together", top, None),
    ]
    return Table(
        f"The registry's own bytes, {versions:,} versions of one model",
        ("what", "bytes", "gzip bytes", "per"),
        [
            (
                what,
                f"{size:,.0f}",
                "" if packed is None else f"{packed:,.0f}",
                "registry" if packed is None else "version",
            )
            for what, size, packed in rows
        ],
    )


def _fetching(large: Registry, folder: Path) -> Table:
    root = large.root_path.read_bytes()
    with _nginx(large.repository, folder / "nginx") as (url, _):
        path = _newest_file(large)
        plain_s = _median_s(lambda: _download(f"{url}/{path}"), 9)

        def first() -> None:
            cache = Path(tempfile.mkdtemp(dir=folder))
            Client(url, root=root, cache=cache).fetch(MODEL, fall_back=False)

        phone = Client(url, root=root, cache=folder / "phone")
        phone.fetch(MODEL, fall_back=False)

        def update() -> float:
            _publish(large, os.urandom(FILE_BYTES))
            return _seconds(lambda: phone.fetch(MODEL, fall_back=False))

        rows = [
            ("urllib, no check", plain_s),
            ("client, first time: refresh and download", _median_s(first, 5)),
            ("client, nothing new", _median_s(lambda: phone.fetch(MODEL, fall_back=False), 5)),
            ("client, an update: refresh and download", statistics.median(update() for _ in range(5))),
        ]
    return Table(
        f"Fetching {FILE_BYTES:,} bytes over loopback, {len(large.versions(MODEL)):,} versions there",
        ("what", "median s", "times urllib"),
        [(what, f"{value:.3f}", f"{value / plain_s:.0f}") for what, value in rows],
    )


def _together(folder: Path) -> Table:
    small = Registry.create(folder / "small")
    for _ in range(10):
        _publish(small, os.urandom(FILE_BYTES))
    root, path = small.root_path.read_bytes(), _newest_file(small)
    lines = []
    for name, served in (
        ("nginx", _nginx(small.repository, folder / "nginx-small")),
        ("tfx-mobile registry serve", _ours(small)),
    ):
        with served as (url, _):
            for what, call in (
                ("urllib, no check", lambda cache, url=url: _download(f"{url}/{path}")),
                (
                    "client, first time",
                    lambda cache, url=url: Client(url, root=root, cache=cache).fetch(MODEL, fall_back=False),
                ),
            ):
                failures, each, all_s = _at_once(call, folder)
                lines.append(
                    (
                        name,
                        what,
                        str(failures),
                        f"{all_s:.2f}",
                        f"{PHONES / all_s:,.0f}",
                        f"{statistics.median(each):.2f}",
                        f"{max(each):.2f}",
                    )
                )
    return Table(
        f"{PHONES} phones at once, {FILE_BYTES:,} bytes each; phones are threads of one process",
        ("server", "phone", "failed", "s, all", "phones/s", "median s", "slowest s"),
        lines,
    )


def _updating(folder: Path) -> Table:
    draw = np.random.default_rng(1)
    weights = np.clip(np.round(draw.normal(0, 30, FILE_BYTES)), -127, 127).astype(np.int8)
    moved = weights.copy()
    chosen = draw.choice(weights.size, weights.size // 10, replace=False)
    moved[chosen] = np.clip(moved[chosen] + draw.choice([-1, 1], chosen.size), -127, 127)
    floats = [draw.normal(0, 0.05, FILE_BYTES // 4).astype(np.float32) for _ in range(2)]
    lines = []
    for what, before, after in (
        ("int8, 10 % of the values moved by one", weights.tobytes(), moved.tobytes()),
        ("float32, trained anew", floats[0].tobytes(), floats[1].tobytes()),
    ):
        sent = {}
        for delta in (False, True):
            name = f"{what[:5]}-{delta}".replace(",", "")
            one = Registry.create(folder / name)
            with _nginx(one.repository, folder / f"nginx-{name}") as (url, log):
                phone = Client(url, root=one.root_path.read_bytes(), cache=folder / f"phone-{name}")
                one.publish(MODEL, before, metadata=_FIGURES)
                phone.fetch(MODEL, fall_back=False)
                begin = log()
                one.publish(MODEL, after, metadata=_FIGURES, delta=delta)
                found = phone.fetch(MODEL, fall_back=False)
                if found.path.read_bytes() != after:
                    raise RuntimeError("the phone has another file")
                sent[delta] = log() - begin
        packed = len(gzip.compress(after, 9))
        lines.append(
            (
                what,
                f"{len(after):,}",
                f"{packed:,}",
                f"{sent[False]:,}",
                f"{sent[True]:,}",
                f"{sent[True] / sent[False]:.2f}",
                f"{sent[True] / packed:.2f}",
            )
        )
    return Table(
        "Bytes that nginx sent for one update, metadata and headers included",
        ("what", "file", "gzip -9", "no delta", "delta on", "of no delta", "of gzip"),
        lines,
    )


def _fill(large: Registry, count: int) -> None:
    """Brings the model to `count` versions of a few bytes in one step: publishing each takes minutes."""
    have = len(large.versions(MODEL)) if MODEL in large.models() else 0
    if have == 0 < count:
        _publish(large, b"first" * 100)
        have = 1
    with large._locked():
        chain = large._load()
        if MODEL not in chain.models():
            return
        role = chain.role(MODEL)
        newest = max((record.version for record in large.versions(MODEL)), default=0)
        added: list[Any] = []
        for version in range(newest + 1, newest + 1 + count - have):
            added += records.version_targets(
                MODEL, version, "default", b"%d" % version * 50, metadata=_FIGURES, published_unix_s=version
            )
        role.targets |= {target.path: target for target, _ in added}
        large._commit(chain, {MODEL: role}, added)


def _publish(one: Registry, content: bytes) -> None:
    one.publish(MODEL, content, metadata=_FIGURES, delta=False)


def _newest_file(one: Registry) -> str:
    record = one.versions(MODEL)[-1]
    return f"targets/{MODEL}/{record.version}/{record.sha256}.model.tflite"


def _at_once(call: Callable[[Path], Any], folder: Path) -> tuple[int, list[float], float]:
    """Returns how many of `PHONES` calls failed, the seconds of each, and of all."""
    together = threading.Barrier(PHONES + 1)
    base = Path(tempfile.mkdtemp(dir=folder))

    def phone(number: int) -> float:
        together.wait()
        return _seconds(lambda: call(base / str(number)))

    with concurrent.futures.ThreadPoolExecutor(PHONES) as pool:
        futures = [pool.submit(phone, number) for number in range(PHONES)]
        together.wait()
        begin = time.perf_counter()
        concurrent.futures.wait(futures)
        all_s = time.perf_counter() - begin
    failed = [future.exception() for future in futures if future.exception()]
    for error in {str(one) for one in failed}:
        print(f"  {error}")
    return len(failed), [future.result() for future in futures if not future.exception()] or [0.0], all_s


@contextlib.contextmanager
def _ours(one: Registry) -> Iterator[tuple[str, Callable[[], int]]]:
    """Runs it in a process of its own, as `tfx-mobile registry serve` does."""
    program = "import sys; from tfx_mobile.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "registry", "serve", str(one.repository), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        if process.stdout is None:
            raise RuntimeError("no pipe")
        yield process.stdout.readline().split()[1], lambda: 0
    finally:
        process.terminate()
        process.communicate()


@contextlib.contextmanager
def _nginx(served: Path, folder: Path) -> Iterator[tuple[str, Callable[[], int]]]:
    """Yields the URL of an nginx that serves a folder, and what says how many bytes it has sent."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise SystemExit("The registry's section needs nginx: apt-get install nginx-light")
    folder.mkdir(exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = folder / "log"
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; user root; error_log stderr; events {{ worker_connections 1024; }}\n"
        f"http {{ log_format sent '$bytes_sent'; access_log {log} sent;\n"
        f"server {{ listen 127.0.0.1:{port} backlog=1024; root {served}; }} }}\n"
    )
    process = subprocess.Popen(
        [program, "-c", str(folder / "nginx.conf"), "-p", str(folder)], stderr=subprocess.DEVNULL
    )
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}", lambda: sum(map(int, log.read_text().split()))
    finally:
        process.terminate()
        process.wait()


def _download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=120) as answer:
        content: bytes = answer.read()
    if not content:
        raise RuntimeError("nothing came")
    return content


def _copy(content: bytes, path: Path) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _median_s(call: Callable[[], Any], repeats: int) -> float:
    return statistics.median(_seconds(call) for _ in range(repeats))


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
