"""The publisher's private keys: one ed25519 key a role, one file a key, mode 0600, outside the repository.

Does not write files (the store does, in its one order) and does not encrypt: put the folder where only the
publisher can read. Whoever has a role's file can sign as that role. The root key is needed only to make the
registry and to renew its root, so it may live offline in between.
Source: RFC 8410 (ed25519 in PKCS #8); The Update Framework 1.0.31, section 6, "Key management".
"""

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]
from tuf.api.metadata import Role  # type: ignore[attr-defined]

from tfx_mobile.common.errors import RegistryError


def key_path(folder: Path, role: str) -> Path:
    """Returns where the private key of `role` lives."""
    return folder / f"{role}.pem"


def make_signer() -> CryptoSigner:
    """Returns a new ed25519 key; its `private_bytes` is the content of its file."""
    return CryptoSigner.generate_ed25519()


def load_signer(folder: Path, role: str) -> CryptoSigner:
    """Reads the private key of `role`.

    Raises:
      RegistryError: The file is missing, cannot be read, or holds no ed25519 key in PEM without a passphrase.
    """
    path = key_path(folder, role)
    try:
        pem = path.read_bytes()
    except FileNotFoundError as error:
        raise RegistryError(
            f"Private key of role '{role}' must be at {path}; it is missing. Restore the keys folder from "
            "its backup, or name the folder it is in."
        ) from error
    except OSError as error:
        raise RegistryError(
            f"Private key of role '{role}' must be readable; {path}: {error.strerror}. "
            "Run as the user who owns the keys."
        ) from error
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RegistryError(
            f"Private key of role '{role}' must be PEM without a passphrase; {path} is not. "
            "Restore it from its backup."
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise RegistryError(
            f"Private key of role '{role}' must be ed25519; {path} holds {type(key).__name__}. "
            "Restore it from its backup."
        )
    return CryptoSigner(key)


def load_signer_for(folder: Path, name: str, role: Role) -> CryptoSigner:
    """Reads the private key of role `name` and checks that the signed `role` trusts it.

    Raises:
      RegistryError: As `load_signer`; or the key is not one that the registry's metadata names.
    """
    signer = load_signer(folder, name)
    if signer.public_key.keyid not in role.keyids:
        raise RegistryError(
            f"Private key of role '{name}' must be the one the registry trusts (key id "
            f"{', '.join(role.keyids)}); {key_path(folder, name)} has key id {signer.public_key.keyid}. "
            "It belongs to another registry: name the right keys folder."
        )
    return signer
