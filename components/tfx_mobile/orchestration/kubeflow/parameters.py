"""Parameters of a component as they were: Kubeflow's server sends every number as a float64.

Which parameters are integers and which are booleans is in the compiled file. Does not read artifacts.
"""

import math
from collections.abc import Mapping
from typing import Any

from google.protobuf import struct_pb2
from kfp.pipeline_spec import pipeline_spec_pb2  # type: ignore[import-untyped]

from tfx_mobile.common.errors import ConfigError

_INT_LIMIT = 2**53  # from here on float64 has gaps
_Kind = pipeline_spec_pb2.ParameterType
_FIELDS = {
    _Kind.STRING: "string_value",
    _Kind.NUMBER_INTEGER: "number_value",
    _Kind.NUMBER_DOUBLE: "number_value",
    _Kind.BOOLEAN: "bool_value",
}


def restore(
    values: Mapping[str, struct_pb2.Value], spec: pipeline_spec_pb2.ComponentInputsSpec
) -> dict[str, Any]:
    """Returns the parameters as the executor takes them: str, int, float or bool.

    Args:
      values: As the server sends them; every number is a float64.
      spec: The component's inputs as they were compiled.

    Raises:
      ConfigError: A value is not of its declared type, or is not declared.
    """
    return {name: _restored(name, value, spec) for name, value in values.items()}


def _restored(name: str, value: struct_pb2.Value, spec: pipeline_spec_pb2.ComponentInputsSpec) -> Any:
    kind = spec.parameters[name].parameter_type if name in spec.parameters else None
    if kind not in _FIELDS:
        what = "of no such type" if name in spec.parameters else "not declared"
        raise ConfigError(
            f"Parameter {name!r} must be declared as string, integer, double or boolean; it is {what}. "
            "Compile the pipeline again."
        )
    field = value.WhichOneof("kind")
    found: Any = getattr(value, field) if field else None
    if kind == _Kind.BOOLEAN and field == "number_value" and found in (0, 1):
        return bool(found)
    whole = field == "number_value" and found.is_integer() and abs(found) < _INT_LIMIT
    if field != _FIELDS[kind] or (kind == _Kind.NUMBER_INTEGER and not whole):
        raise ConfigError(
            f"Parameter {name!r} must be of type {_Kind.ParameterTypeEnum.Name(kind)}; got {found!r}. "
            f"Integers must be below 2**53 in size. Start the run with another value."
        )
    if kind == _Kind.NUMBER_DOUBLE and not math.isfinite(found):
        raise ConfigError(
            f"Parameter {name!r} must be finite; got {found!r}. Start the run with another value."
        )
    return int(found) if kind == _Kind.NUMBER_INTEGER else found
