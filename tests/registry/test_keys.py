"""Private keys on disk."""

import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from tuf.api.metadata import Role  # type: ignore[attr-defined]

from tfx_mobile.common.errors import RegistryError
from tfx_mobile.registry import keys


def test_a_key_that_was_written_signs_as_the_one_that_was_made(tmp_path: Path) -> None:
    signer = keys.make_signer()
    keys.key_path(tmp_path, "snapshot").write_bytes(signer.private_bytes)
    read = keys.load_signer(tmp_path, "snapshot")
    assert read.public_key == signer.public_key
    signer.public_key.verify_signature(read.sign(b"payload"), b"payload")


def test_no_two_keys_are_the_same() -> None:
    assert len({keys.make_signer().public_key.keyid for _ in range(8)}) == 8


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    private = generate_private_key(SECP256R1())
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    keys.key_path(tmp_path, "root").write_bytes(pem)
    with pytest.raises(RegistryError, match=re.escape("Private key of role 'root' must be ed25519;")):
        keys.load_signer(tmp_path, "root")


def test_a_key_with_a_passphrase_is_refused(tmp_path: Path) -> None:
    private = generate_private_key(SECP256R1())
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    keys.key_path(tmp_path, "root").write_bytes(pem)
    message = f"Private key of role 'root' must be PEM without a passphrase; {tmp_path / 'root.pem'} is not."
    with pytest.raises(RegistryError, match=re.escape(message)):
        keys.load_signer(tmp_path, "root")


def test_a_key_is_only_used_for_a_role_that_trusts_it(tmp_path: Path) -> None:
    signer = keys.make_signer()
    keys.key_path(tmp_path, "root").write_bytes(signer.private_bytes)
    keyid = signer.public_key.keyid
    assert keys.load_signer_for(tmp_path, "root", Role([keyid], 1)).public_key.keyid == keyid
    message = (
        f"must be the one the registry trusts (key id other); {tmp_path / 'root.pem'} has key id {keyid}."
    )
    with pytest.raises(RegistryError, match=re.escape(message)):
        keys.load_signer_for(tmp_path, "root", Role(["other"], 1))
