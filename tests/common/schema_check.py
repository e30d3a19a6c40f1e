"""What of JSON Schema our schemas use, checked in a few lines: both lanes have no validator in common."""

from typing import Any

_KNOWN = {
    *("$schema", "$id", "$defs", "$ref", "description"),
    *("type", "const", "enum", "anyOf", "items", "properties", "required", "additionalProperties"),
}
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def violations(value: Any, schema: dict[str, Any], root: dict[str, Any], where: str = "$") -> list[str]:
    """Returns what of a value the schema refuses, in words; a keyword that is not known here is refused."""
    found = [f"{where}: the schema says {word!r}" for word in sorted(set(schema) - _KNOWN)]
    if "$ref" in schema:
        target = root
        for step in schema["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        found += violations(value, target, root, where)
    if "type" in schema and not _has_type(value, schema["type"]):
        return [*found, f"{where}: not {schema['type']}: {value!r}"]
    if "const" in schema and value != schema["const"]:
        found.append(f"{where}: not {schema['const']!r}")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{where}: not one of {schema['enum']}")
    if "anyOf" in schema:
        tried = [violations(value, one, root, where) for one in schema["anyOf"]]
        found += [] if not all(tried) else [f"{where}: none of {len(tried)}"]
    if isinstance(value, list) and "items" in schema:
        for i, item in enumerate(value):
            found += violations(item, schema["items"], root, f"{where}[{i}]")
    if isinstance(value, dict):
        found += _in_object(value, schema, root, where)
    return found


def _in_object(value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], where: str) -> list[str]:
    found = [f"{where}: lacks {name}" for name in schema.get("required", []) if name not in value]
    known = schema.get("properties", {})
    more = schema.get("additionalProperties", True)
    for name, item in value.items():
        if name in known:
            found += violations(item, known[name], root, f"{where}.{name}")
        elif more is False:
            found.append(f"{where}: has no {name}")
        elif more is not True:
            found += violations(item, more, root, f"{where}.{name}")
    return found


def _has_type(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, _TYPES[name])
