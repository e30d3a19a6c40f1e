"""A JSON Schema (draft 2020-12) of settings: what `jsonable.Settings.from_dict` takes, for other languages.

Knows the types that jsonable knows; words come from the classes' docstrings. Checks made in `__post_init__`
are not in it: what the schema refuses is refused, but not the reverse.
"""

import dataclasses
import enum
import inspect
import re
import types
import typing
from typing import Any

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.jsonable import Settings

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def schema_of(settings: type[Settings], *, identifier: str) -> dict[str, Any]:
    """Returns the schema of a class of settings and of all it is made of.

    Args:
      settings: The class at the top.
      identifier: An absolute URI that names the schema, with its version.

    Raises:
      ConfigError: A field has a type that settings cannot have.
    """
    definitions: dict[str, Any] = {}
    top = _of(settings, definitions, settings.__name__)
    return {"$schema": DIALECT, "$id": identifier, **top, "$defs": dict(sorted(definitions.items()))}


def _of(wanted: Any, definitions: dict[str, Any], where: str) -> dict[str, Any]:
    origin, args = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is Any:
        return {}
    if wanted in _PLAIN:
        return {"type": _PLAIN[wanted]}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_of(choice, definitions, where) for choice in args]}
    if origin is tuple and args[1:] == (...,):
        return {"type": "array", "items": _of(args[0], definitions, where)}
    if origin is dict and args[0] is str:
        return {"type": "object", "additionalProperties": _of(args[1], definitions, where)}
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        return {"enum": [member.value for member in wanted]}
    if isinstance(wanted, type) and issubclass(wanted, Settings):
        if wanted.__name__ not in definitions:
            definitions[wanted.__name__] = {}  # first, for a class that holds itself
            definitions[wanted.__name__] = _object(wanted, definitions)
        return {"$ref": f"#/$defs/{wanted.__name__}"}
    raise ConfigError(
        f"Settings hold text, numbers, booleans, None, enums, tuples, dicts by text and settings; "
        f"{where} is {wanted!r}."
    )


def _object(settings: type[Settings], definitions: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(settings)
    summary, words = _docstring(settings)
    fields = dataclasses.fields(settings)
    properties: dict[str, Any] = {"kind": {"const": settings.kind}} if settings.kind else {}
    for field in fields:
        found = _of(hints[field.name], definitions, f"{settings.__name__}.{field.name}")
        properties[field.name] = ({"description": words[field.name]} if field.name in words else {}) | found
    needed = [
        field.name
        for field in fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    return {
        "type": "object",
        "description": summary,
        "properties": properties,
        "required": [*(["kind"] if settings.kind else []), *needed],
        "additionalProperties": False,
    }


def _docstring(settings: type[Settings]) -> tuple[str, dict[str, str]]:
    """Returns the first sentence of a Google docstring and its attributes' words."""
    text = inspect.cleandoc(settings.__doc__ or "")
    head, _, attributes = text.partition("\nAttributes:\n")
    summary = " ".join(head.partition("\n\n")[0].split())
    parts = re.split(r"^  (\w+): ", attributes, flags=re.MULTILINE)
    words = {name: " ".join(part.split()) for name, part in zip(parts[1::2], parts[2::2], strict=True)}
    return summary, words
