"""Settings as values: frozen dataclasses to and from strict, canonical JSON.

The same settings give the same bytes (keys sorted, no white space), which is what TFX's cache compares.
Unknown keys, missing keys and wrong types are refused by name. Does not handle arbitrary classes: fields
are str, int, float, bool, None, enums, tuples, string-keyed dicts, other settings, and unions of settings
that differ in their `kind`.
"""

import dataclasses
import enum
import json
import math
import sys
import types
import typing
from typing import Any, ClassVar, TypeVar

from tfx_mobile.common.errors import ConfigError

SettingsT = TypeVar("SettingsT", bound="Settings")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base for a frozen dataclass of settings; subclasses check themselves in `__post_init__`.

    A subclass that can stand beside others in one union sets the class variable `kind`, which is written
    into its JSON and read back to choose the class.
    """

    kind: ClassVar[str] = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as plain JSON values, `kind` first where the class has one."""
        head = {"kind": self.kind} if self.kind else {}
        return head | {f.name: _encode(getattr(self, f.name)) for f in dataclasses.fields(self)}

    def to_json(self) -> str:
        """Returns canonical JSON: sorted keys, no white space, no NaN."""
        return dumps(self.to_dict())

    @classmethod
    def from_dict(cls: type[SettingsT], value: Any) -> SettingsT:
        """Builds the settings from plain JSON values.

        Raises:
          ConfigError: A key is unknown or missing, or a value has the wrong type; the message names it.
        """
        return typing.cast(SettingsT, _decode(cls, value, cls.__name__))

    @classmethod
    def from_json(cls: type[SettingsT], text: str) -> SettingsT:
        """Builds the settings from the text `to_json` wrote.

        Raises:
          ConfigError: The text is not JSON, or `from_dict` refuses its content.
        """
        return cls.from_dict(loads(text, where=cls.__name__))


def dumps(value: Any, *, indent: int | None = None) -> str:
    """Returns canonical JSON.

    Raises:
      ConfigError: There is a NaN or an infinity, which JSON has not, or a value of another kind than text,
        numbers, booleans, None, lists and dicts, such as a NumPy number.
    """
    separators = (",", ":") if indent is None else (",", ": ")
    try:
        return json.dumps(value, sort_keys=True, indent=indent, separators=separators, allow_nan=False)
    except ValueError as error:
        raise ConfigError(f"JSON has no NaN and no infinity; {error}.") from error
    except TypeError as error:
        raise ConfigError(
            f"Settings must be text, numbers, booleans, None, lists and dicts; {error}. Of a NumPy number, "
            "take .item()."
        ) from error


def loads(text: str | bytes, *, where: str) -> Any:
    """Parses JSON, refusing repeated keys and NaN.

    Args:
      text: UTF-8 JSON.
      where: What is being read, for the message.

    Raises:
      ConfigError: Not JSON, a repeated key, NaN or infinity.
    """
    try:
        return json.loads(
            text, object_pairs_hook=_no_repeats, parse_constant=_no_constant, parse_float=_finite
        )
    except ValueError as error:
        raise ConfigError(f"{where} must be JSON; {error}.") from error


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} stands twice")
        found[key] = value
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(f"{number} is too large a number")
    return value


def _encode(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.to_dict()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return [_encode(item) for item in value]
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    return value


def _decode(wanted: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(wanted)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(typing.get_args(wanted), value, where)
    if origin is tuple:
        return _decode_tuple(typing.get_args(wanted), value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where} must be an object; got {_shown(value)}.")
        item = typing.get_args(wanted)[1]
        return {key: _decode(item, part, f"{where}.{key}") for key, part in value.items()}
    if isinstance(wanted, type) and issubclass(wanted, Settings):
        return _decode_settings(wanted, value, where)
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        return _decode_enum(wanted, value, where)
    if wanted is float and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    if wanted is Any or (type(value) is wanted):
        return value
    raise ConfigError(f"{where} must be {getattr(wanted, '__name__', wanted)}; got {_shown(value)}.")


def _decode_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where} must be a list; got {_shown(value)}.")
    item = args[0]
    return tuple(_decode(item, part, f"{where}[{i}]") for i, part in enumerate(value))


def _decode_enum(wanted: type[enum.Enum], value: Any, where: str) -> enum.Enum:
    try:
        return wanted(value)
    except ValueError as error:
        choices = ", ".join(repr(member.value) for member in wanted)
        raise ConfigError(f"{where} must be one of {choices}; got {_shown(value)}.") from error


def _decode_union(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in choices:
        return None
    settings = {c.kind: c for c in choices if isinstance(c, type) and issubclass(c, Settings)}
    if isinstance(value, dict) and len(settings) > 1:
        kind = value.get("kind")
        if not isinstance(kind, str) or kind not in settings:
            named = ", ".join(map(repr, sorted(settings)))
            raise ConfigError(f"{where}.kind must be one of {named}; got {kind!r}.")
        return _decode(settings[kind], value, where)
    refused: list[str] = []
    for choice in (c for c in choices if c is not type(None)):
        try:
            return _decode(choice, value, where)
        except ConfigError as error:
            refused.append(str(error))
    raise ConfigError(refused[0] if len(refused) == 1 else " or ".join(refused))


def _decode_settings(wanted: type[Settings], value: Any, where: str) -> Settings:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must be an object; got {_shown(value)}.")
    given = dict(value)
    if wanted.kind and given.pop("kind", wanted.kind) != wanted.kind:
        raise ConfigError(f"{where}.kind must be {wanted.kind!r}; got {value['kind']!r}.")
    hints = typing.get_type_hints(wanted)
    fields = {f.name: f for f in dataclasses.fields(wanted)}
    if unknown := sorted(set(given) - set(fields)):
        raise ConfigError(
            f"{where} has no setting {', '.join(map(repr, unknown))}; it has {', '.join(sorted(fields))}."
        )
    required = {
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if missing := sorted(required - set(given)):
        raise ConfigError(f"{where} lacks {', '.join(map(repr, missing))}.")
    return wanted(**{k: _decode(hints[k], v, f"{where}.{k}") for k, v in given.items()})


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
