"""The publisher's private keys: one key a role, one file a key, mode 0600, outside the repository.

`<role>.pem` is an ed25519 key. `<role>.signer.json` names a key that stays where it is, in a KMS or an HSM:
{"uri": ..., "public_key": ...}. `<role>.next.*` is the one that a rotation is about to bring in: of all files
of a role the one counts that the signed metadata trusts. Several root keys are `root-1`, `root-2`, ...
Does not write files (the repository does, in its one order) and does not encrypt: put the folder where only
the publisher can read. Whoever has a role's file can sign as that role. The root keys are needed only to make
the registry, to renew its root and to rotate keys, so they may live offline in between.
Source: RFC 8410 (ed25519 in PKCS #8); The Update Framework 1.0.31, section 6, "Key management".
"""

import logging
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import (  # type: ignore[attr-defined]
    AWSSigner,
    AzureSigner,
    CryptoSigner,
    GCPSigner,
    HSMSigner,
    Key,
    Signer,
)
from tuf.api.metadata import Role  # type: ignore[attr-defined]

from tfx_mobile.common import jsonable
from tfx_mobile.common.errors import ConfigError, RegistryError

SECRET_VARIABLE = "TFX_MOBILE_SIGNER_PIN"
NEXT = ".next"
PEM, REFERENCE = ".pem", ".signer.json"
_log = logging.getLogger(__name__)
_PACKAGES = {"hsm": "hsm", "gcpkms": "gcpkms", "awskms": "awskms", "azurekms": "azurekms"}


def key_path(folder: Path, role: str) -> Path:
    """Returns where the private key of `role` lives."""
    return folder / f"{role}{PEM}"


def root_key_names(num_keys: int) -> list[str]:
    """Returns the names of the root keys: 'root', or 'root-1', 'root-2', ... when there are several."""
    return ["root"] if num_keys == 1 else [f"root-{number}" for number in range(1, num_keys + 1)]


def make_signer() -> CryptoSigner:
    """Returns a new ed25519 key; its `private_bytes` is the content of its file."""
    return CryptoSigner.generate_ed25519()


def key_files(folder: Path, name: str) -> list[Path]:
    """Returns the files there are of the key `name`, the one in use before the next one."""
    found = [folder / f"{name}{age}{kind}" for age in ("", NEXT) for kind in (REFERENCE, PEM)]
    return [path for path in found if path.exists()]


def load_signer(folder: Path, role: str) -> Signer:
    """Reads the private key of `role`, or the reference to it.

    Raises:
      RegistryError: The file is missing, cannot be read, or holds neither an ed25519 key in PEM without a
        passphrase nor a reference.
    """
    return read_signer((key_files(folder, role) or [key_path(folder, role)])[0], role)


def read_signer(path: Path, role: str) -> Signer:
    """Reads one file; see `load_signer`."""
    try:
        content = path.read_bytes()
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
    return parse_signer(path, content, role)


def parse_signer(path: Path, content: bytes, role: str) -> Signer:
    """Returns the key in the content of a file; see `load_signer`."""
    return _referred(path, content, role) if path.name.endswith(REFERENCE) else _from_pem(path, content, role)


def trusted_signers(folder: Path, key_names: list[str], role: Role) -> dict[str, Signer]:
    """Returns the keys that are there and that the signed `role` trusts, by name.

    Raises:
      RegistryError: A file that is there is no key.
    """
    found: dict[str, Signer] = {}
    for name in key_names:
        for path in key_files(folder, name):
            signer = read_signer(path, name)
            if signer.public_key.keyid in role.keyids:
                found.setdefault(name, signer)
    return found


def load_signer_for(folder: Path, name: str, role: Role) -> Signer:
    """Reads the private key of role `name` that the signed `role` trusts.

    Raises:
      RegistryError: As `load_signer`; or no key is one that the registry's metadata names.
    """
    if (found := trusted_signers(folder, [name], role).get(name)) is not None:
        return found
    signer = load_signer(folder, name)
    raise RegistryError(
        f"Private key of role '{name}' must be the one the registry trusts (key id "
        f"{', '.join(role.keyids)}); {key_files(folder, name)[0]} has key id {signer.public_key.keyid}. "
        "It belongs to another registry: name the right keys folder."
    )


def load_root_signers(folder: Path, role: Role) -> dict[str, Signer]:
    """Reads the root keys that are there, by name: at least as many as the root asks for.

    Raises:
      RegistryError: There are fewer; the message says that root keys may be kept elsewhere.
    """
    key_names = root_key_names(len(role.keyids))
    found: dict[str, Signer] = {}
    broken: dict[str, RegistryError] = {}
    for name in key_names:
        try:
            found |= trusted_signers(folder, [name], role)
        except RegistryError as error:  # enough of the others will do
            broken[name] = error
    if len(found) < role.threshold:
        if len(key_names) == 1 and broken:
            raise broken["root"]
        missing = [name for name in key_names if name not in found]
        strange = [str(path) for name in missing if name not in broken for path in key_files(folder, name)]
        untrusted = f"; the registry does not trust {' and '.join(strange)}" if strange else ""
        unusable = "".join(f"; {problem}".rstrip(".") for problem in broken.values())
        raise RegistryError(
            "Private key of role 'root' must be at "
            f"{' and '.join(str(key_path(folder, name)) for name in missing)}: {role.threshold} of "
            f"{len(key_names)} must sign, and {len(found)} can{untrusted}{unusable}. "
            "Bring the root key back from where it is kept, for this step alone."
        )
    for problem in broken.values():
        _log.warning("There are root keys enough, but one is of no use: %s", problem)
    return found


def reference(uri: str, public_key: Key) -> bytes:
    """Returns the content of a `.signer.json` file."""
    said = {"uri": uri, "public_key": {"keyid": public_key.keyid, **public_key.to_dict()}}
    return jsonable.dumps(said, indent=2).encode() + b"\n"


def find_key(uri: str) -> bytes:
    """Asks a KMS or an HSM for a public key; returns the reference to the private one.

    Args:
      uri: hsm:<id>?label=<token>, gcpkms:<resource name>, awskms:<key id or alias>, or
        azurekms://<vault>.vault.azure.net/keys/<key>. An HSM's library is named by the environment variable
        PYKCS11LIB, its PIN by TFX_MOBILE_SIGNER_PIN.

    Raises:
      ConfigError: The URI is of another kind, or what it needs is not installed.
      RegistryError: There is no such key, or it is not reached.
    """
    scheme, _, rest = uri.partition(":")
    try:
        if scheme == HSMSigner.SCHEME:
            parts = urlsplit(uri)
            label = dict(parse_qsl(parts.query)).get("label")
            return reference(*HSMSigner.import_(int(parts.path) if parts.path else None, label, _secret))
        if scheme == GCPSigner.SCHEME:
            return reference(*GCPSigner.import_(rest))
        if scheme == AWSSigner.SCHEME:
            return reference(*AWSSigner.import_(rest))
        azure = re.fullmatch(r"//([a-zA-Z0-9-]+)\.vault\.azure\.net/keys/([a-zA-Z0-9-]+)(/.*)?", rest)
        if scheme == AzureSigner.SCHEME and azure:
            return reference(*AzureSigner.import_(azure[1], azure[2]))
    except UnsupportedLibraryError as error:
        raise ConfigError(
            f"Key {uri!r} needs a package that is not installed: pip install "
            f"'securesystemslib[{_PACKAGES[scheme]}]'."
        ) from error
    except (RegistryError, ConfigError):
        raise
    except Exception as error:  # of five different clients
        raise RegistryError(
            f"Key {uri!r} must be there and reachable; {reason(error)}. Check the key, its library and the "
            "credentials."
        ) from error
    raise ConfigError(
        "Key must be hsm:<id>?label=<token>, gcpkms:<name>, awskms:<id> or "
        f"azurekms://<vault>.vault.azure.net/keys/<key>; got {uri!r}."
    )


def _referred(path: Path, content: bytes, role: str) -> Signer:
    said = read_reference(path, content, role)
    try:
        key = Key.from_dict(said["public_key"].pop("keyid"), said["public_key"])
        return Signer.from_priv_key_uri(said["uri"], key, _secret)
    except UnsupportedLibraryError as error:
        raise RegistryError(
            f"Private key of role '{role}' needs a package that is not installed: {path} names "
            f"{said['uri']!r}."
        ) from error
    except Exception as error:  # of five different clients
        raise RegistryError(
            f"Private key of role '{role}' must have a known uri and a public_key; {path} has "
            f"{said['uri']!r}: {reason(error)}. Name the key again with `tfx-mobile registry use-signer`."
        ) from error


def read_reference(path: Path, content: bytes, role: str) -> dict[str, Any]:
    """Returns what a `.signer.json` file says.

    Raises:
      RegistryError: It is no reference.
    """
    try:
        said = jsonable.loads(content, where=str(path))
    except ConfigError as error:
        raise RegistryError(f"Private key of role '{role}': {error} Restore it from its backup.") from error
    if (
        not isinstance(said, dict)
        or set(said) != {"uri", "public_key"}
        or not isinstance(said["uri"], str)
        or not isinstance(said["public_key"], dict)
    ):
        raise RegistryError(
            f"Private key of role '{role}' must be named by uri and public_key; {path} is not like that. "
            "Restore it from its backup."
        )
    return said


def _from_pem(path: Path, pem: bytes, role: str) -> CryptoSigner:
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


def _secret(what: str) -> str:
    if not (value := os.environ.get(SECRET_VARIABLE)):
        raise RegistryError(
            f"The key's {what} must be in the environment variable {SECRET_VARIABLE}; it is not set."
        )
    return value


def reason(error: BaseException) -> str:
    """Returns what went wrong, never the PIN."""
    secret = os.environ.get(SECRET_VARIABLE)
    text = f"{type(error).__name__}: {error}".rstrip(": .")
    return text.replace(secret, "...") if secret else text
