"""A SoftHSM token with a P-256 key, for the processes that get the environment that reaches it."""

import os
import subprocess
from pathlib import Path

from tfx_mobile.registry import keys as key_files

LIBRARY = "/usr/lib/softhsm/libsofthsm2.so"
PIN = "only-for-tests"  # which no key id holds: messages name keys, and must not name the PIN
URI = "hsm:2?label=publisher"


def make_token(folder: Path) -> dict[str, str]:
    """Makes it in `folder`; returns the variables that reach it."""
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\n")
    variables = {
        "SOFTHSM2_CONF": str(folder / "softhsm2.conf"),
        "PYKCS11LIB": LIBRARY,
        key_files.SECRET_VARIABLE: PIN,
    }
    pem = folder / "key.pem"
    token = ["--token", "publisher", "--label", "k", "--id", "02", "--pin", PIN]
    for command in (
        ["softhsm2-util", "--init-token", "--free", "--label", "publisher", "--pin", PIN, "--so-pin", "1357"],
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(pem)],
        ["softhsm2-util", "--import", str(pem), *token],
    ):
        subprocess.run(command, env={**os.environ, **variables}, check=True, capture_output=True)
    pem.unlink()
    return variables
