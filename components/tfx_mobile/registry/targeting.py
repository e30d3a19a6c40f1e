"""Which phone gets which release: what a release asks of a device, and staged rollout by stable hashing.

Pure, so that an app in another language can do the same: every rule is a comparison of what the signed
channel record says with what the device says. What a release asks about and the device does not say is no
fit. Does not read or write.
Source: the targeting and staged rollout of Google Play (fraction of users, minimum device, sticky by user).
"""

import dataclasses
import hashlib
import re

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.jsonable import Settings

EVERYONE_PERMILLE = 1000
_DOTTED = re.compile(r"(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){0,3}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclasses.dataclass(frozen=True)
class Device:
    """What a phone says about itself; what is left out is not known.

    Attributes:
      id: Any text that stays the same for an installation, for staged rollout. It never leaves the phone.
      platform: For example 'android' or 'ios'.
      abi: For example 'arm64-v8a'.
      app_version: One to four numbers with dots: '2.10.1'.
      ram_mib: Memory of the device, MiB; None when not known.
      runtime_version: Of TensorFlow Lite or LiteRT, as `app_version`.
      ops: Custom and TensorFlow Select operators that the app links in; built-in ones need not be named.

    Raises:
      ConfigError: A value breaks its rule; the message names it.
    """

    id: str = ""
    platform: str = ""
    abi: str = ""
    app_version: str = ""
    ram_mib: int | None = None
    runtime_version: str = ""
    ops: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_text("device.id", self.id)
        _check_words("device.platform", (self.platform,) if self.platform else ())
        _check_words("device.abi", (self.abi,) if self.abi else ())
        _check_words("device.ops", self.ops)
        _check_dotted("device.app_version", self.app_version)
        _check_dotted("device.runtime_version", self.runtime_version)
        if self.ram_mib is not None:
            _check_whole("device.ram_mib", self.ram_mib)


@dataclasses.dataclass(frozen=True)
class Targeting(Settings):
    """What a release asks of a device; the default asks nothing.

    Attributes:
      platforms: One of them; empty is any.
      abis: One of them; empty is any.
      min_app_version: One to four numbers with dots, this one or later; empty is any.
      max_app_version: This one or earlier; '2.1' is also earlier than '2.1.1'. Empty is any.
      min_ram_mib: MiB; 0 is any.
      min_runtime_version: As `min_app_version`, of TensorFlow Lite or LiteRT.
      required_ops: Custom and TensorFlow Select operators in the file, all of which the device must have.

    Raises:
      ConfigError: A value breaks its rule; the message names it.
    """

    platforms: tuple[str, ...] = ()
    abis: tuple[str, ...] = ()
    min_app_version: str = ""
    max_app_version: str = ""
    min_ram_mib: int = 0
    min_runtime_version: str = ""
    required_ops: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_words("platforms", self.platforms)
        _check_words("abis", self.abis)
        _check_words("required_ops", self.required_ops)
        for name in ("min_app_version", "max_app_version", "min_runtime_version"):
            _check_dotted(name, getattr(self, name))
        _check_whole("min_ram_mib", self.min_ram_mib)
        low, high = self.min_app_version, self.max_app_version
        if low and high and _numbers(low) > _numbers(high):
            raise ConfigError(
                f"min_app_version must not be after max_app_version; got {low} and {high}: no app fits."
            )

    def covers(self, other: "Targeting") -> bool:
        """Returns whether every device that fits `other` fits this, too."""
        least = all(
            not mine or (bool(its) and _numbers(mine) <= _numbers(its))
            for mine, its in (
                (self.min_app_version, other.min_app_version),
                (self.min_runtime_version, other.min_runtime_version),
            )
        )
        most, its_most = self.max_app_version, other.max_app_version
        return (
            least
            and (not most or (bool(its_most) and _numbers(most) >= _numbers(its_most)))
            and (not self.platforms or (bool(other.platforms) and {*other.platforms} <= {*self.platforms}))
            and (not self.abis or (bool(other.abis) and {*other.abis} <= {*self.abis}))
            and self.min_ram_mib <= other.min_ram_mib
            and {*self.required_ops} <= {*other.required_ops}
        )

    def misfit(self, device: Device) -> str:
        """Returns why the device does not fit, or empty text when it does."""
        for name, wanted, got in (
            ("platform", self.platforms, device.platform),
            ("ABI", self.abis, device.abi),
        ):
            if wanted and got not in wanted:
                return f"{name} must be {' or '.join(wanted)}; the device has {got or 'not said'}"
        for name, least, got in (
            ("app version", self.min_app_version, device.app_version),
            ("runtime version", self.min_runtime_version, device.runtime_version),
        ):
            if least and not (got and _numbers(got) >= _numbers(least)):
                return f"{name} must be {least} or later; the device has {got or 'not said'}"
        most, got = self.max_app_version, device.app_version
        if most and not (got and _numbers(got) <= _numbers(most)):
            return f"app version must be {most} or earlier; the device has {got or 'not said'}"
        if self.min_ram_mib and not (device.ram_mib is not None and device.ram_mib >= self.min_ram_mib):
            has = "not said" if device.ram_mib is None else f"{device.ram_mib} MiB"
            return f"memory must be {self.min_ram_mib} MiB or more; the device has {has}"
        if lacking := sorted(set(self.required_ops) - set(device.ops)):
            return f"operators {', '.join(lacking)} must be in the app; the device does not have them"
        return ""


def bucket_permille(salt: str, device_id: str) -> int:
    """Returns where a device stands in a rollout: 0 to 999, the same every time, even over devices.

    It is in a rollout of n permille when its bucket is below n, so a share that grows only adds devices.
    Other salts give other orders, so the same phones are not first in every release.

    Args:
      salt: Of the release.
      device_id: Any text.

    Returns:
      The first eight bytes of SHA-256 of UTF-8 `<salt>:<device_id>`, big-endian, modulo 1,000.
    """
    digest = hashlib.sha256(f"{salt}:{device_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % EVERYONE_PERMILLE


def check_permille(permille: int) -> int:
    """Returns `permille`, an integer from 0 (nobody) to 1,000 (everyone).

    Raises:
      ConfigError: It is something else.
    """
    if type(permille) is not int or not 0 <= permille <= EVERYONE_PERMILLE:
        raise ConfigError(f"Rollout share must be an integer from 0 to 1000 permille; got {permille!r}.")
    return permille


def check_targeting(targeting: Targeting) -> Targeting:
    """Returns `targeting`, a `Targeting`.

    Raises:
      ConfigError: It is something else.
    """
    if not isinstance(targeting, Targeting):
        raise ConfigError(
            f"targeting must be a Targeting; got {type(targeting).__name__}. Leave it out to ask nothing."
        )
    return targeting


def _numbers(version: str) -> tuple[int, ...]:
    """Returns four numbers; 2.1 is 2.1.0.0."""
    found = [int(part) for part in version.split(".")]
    return (*found, *[0] * (4 - len(found)))


def _check_dotted(name: str, value: str) -> None:
    if not isinstance(value, str) or (value and not _DOTTED.fullmatch(value)):
        raise ConfigError(f"{name} must be one to four numbers with dots, such as 2.10.1; got {value!r}.")


def _check_words(name: str, values: tuple[str, ...]) -> None:
    if not isinstance(values, tuple):
        raise ConfigError(f"{name} must be a tuple of names; got {type(values).__name__} {values!r}.")
    for value in values:
        if not isinstance(value, str) or not _WORD.fullmatch(value):
            raise ConfigError(
                f"{name} must be 1 to 63 of letters, digits, '.', '_' and '-', and start with a letter or "
                f"digit; got {value!r}."
            )


def _check_text(name: str, value: str) -> None:
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be text; got {type(value).__name__}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{name} must be text that UTF-8 can hold; got {value!r}.") from error


def _check_whole(name: str, value: int) -> None:
    if type(value) is not int or not 0 <= value < 2**53:
        raise ConfigError(f"{name} must be an integer from 0 on; got {value!r}.")
