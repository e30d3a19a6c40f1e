"""The TFLite interpreter, chosen in one place: LiteRT (`ai_edge_litert`), the runtime phones use.

`TFLiteModel` speaks in named features and rows; it hides signatures, batch resizing and quantised inputs
and outputs. Does not measure time (size_latency_evaluator/latency.py). Imports neither TFX nor TensorFlow,
except for a file with TensorFlow's own ops: LiteRT cannot run it, TensorFlow's interpreter before 2.20 can.
"""

import dataclasses
import enum
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import interpreter as litert

from tfx_mobile.common.errors import DataError

SIGNATURE = "serving_default"
_WITHOUT_FLEX = (2, 20)  # from this TensorFlow on, its interpreter has no Flex delegate


class Kernels(enum.Enum):
    """Implementations of the ops: the default ones are XNNPACK's where it has the op.

    WITHOUT_XNNPACK is what runs where an app leaves XNNPACK out. REFERENCE says what each op means, in plain
    loops; it lacks some ops (hash tables), and no phone runs it.

    Source: `OpResolverType` in LiteRT's interpreter.py.
    """

    DEFAULT = "default kernels"
    WITHOUT_XNNPACK = "kernels without XNNPACK"
    REFERENCE = "reference kernels"


_RESOLVERS = {
    Kernels.DEFAULT: litert.OpResolverType.AUTO,
    Kernels.WITHOUT_XNNPACK: litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    Kernels.REFERENCE: litert.OpResolverType.BUILTIN_REF,
}


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One named input or output of a file.

    Attributes:
      name: Its name in the signature.
      index: Its tensor index.
      dtype: What the file stores: np.float32, np.int8, np.bytes_ (strings), ...
      row_shape: Shape of one row, the leading batch dimension left out.
      scale: Quantisation scale; 0 when the tensor is not quantised.
      zero_point: The integer that stands for 0.0.
    """

    name: str
    index: int
    dtype: Any
    row_shape: tuple[int, ...]
    scale: float
    zero_point: int


class TFLiteModel:
    """A loaded TFLite file: rows of named features in, float predictions out.

    Args:
      content: The file's bytes, or its path.
      num_threads: Threads the interpreter may use; >= 1.
      kernels: Which implementations of the ops; a file with TensorFlow's own ops takes the default ones.

    Raises:
      DataError: The interpreter refuses the file, or it has no `serving_default` signature.
    """

    def __init__(
        self, content: bytes | Path, *, num_threads: int = 1, kernels: Kernels = Kernels.DEFAULT
    ) -> None:
        data = content if isinstance(content, bytes) else content.read_bytes()
        try:
            self.interpreter = _interpreter(data, num_threads, kernels)
            signatures = self.interpreter.get_signature_list()
            if SIGNATURE not in signatures:
                raise DataError(
                    f"A TFLite file must have the signature '{SIGNATURE}'; "
                    f"got {sorted(signatures) or 'none'}."
                )
            self.interpreter.allocate_tensors()
            self._runner = self.interpreter.get_signature_runner(SIGNATURE)
        except (ValueError, RuntimeError) as error:
            if isinstance(error, DataError):
                raise
            others = f", with the {kernels.value}" if kernels is not Kernels.DEFAULT else ""
            raise DataError(f"LiteRT refuses the file{others}: {str(error).strip()}") from error
        self.inputs = _specs(self._runner.get_input_details())
        self.outputs = _specs(self._runner.get_output_details())

    def encode(self, columns: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Returns the file's inputs for these rows: reshaped, cast and, where the file wants it, quantised.

        Args:
          columns: By feature name, shape (rows,) or (rows, *row_shape). Features that the file does not
            take are left out.

        Raises:
          DataError: A feature the file takes is missing, or holds something other than its type.
        """
        if missing := sorted(set(self.inputs) - set(columns)):
            raise DataError(
                f"The file needs the features {', '.join(map(repr, sorted(self.inputs)))}; got rows without "
                f"{', '.join(map(repr, missing))}."
            )
        return {name: _encode(spec, columns[name]) for name, spec in self.inputs.items()}

    def predict(self, columns: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """Returns the predictions of all rows in one invocation.

        Args:
          columns: As for `encode`.

        Returns:
          Shape (rows, outputs): the file's outputs in name order, flattened by row, de-quantised.

        Raises:
          DataError: As `encode`, or the interpreter fails on these rows.
        """
        parts = self.predict_outputs(columns)
        return np.concatenate([parts[name] for name in sorted(parts)], axis=1)

    def predict_outputs(self, columns: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
        """Returns the predictions of all rows in one invocation, each output apart.

        Args:
          columns: As for `encode`.

        Returns:
          By the output's name in the signature, shape (rows, width): flattened by row, de-quantised.

        Raises:
          DataError: As `encode`, the interpreter fails on these rows, or an output is not one value or more
            for each row.
        """
        values = self.encode(columns)
        rows = len(next(iter(values.values())))
        try:
            found = self._runner(**values)
        except (ValueError, RuntimeError) as error:
            raise DataError(f"LiteRT failed on a batch of {rows} rows: {str(error).strip()}") from error
        return {name: _by_row(spec, found[name], rows) for name, spec in self.outputs.items()}


def flex_ops(content: bytes) -> list[str]:
    """Returns the ops of a file that are TensorFlow's own, 'FlexStringLower' for example.

    Args:
      content: A TFLite file; of another, none are found.
    """
    if b"Flex" not in content:
        return []
    schema = importlib.import_module("ai_edge_litert.schema_py_generated")  # a fifth of a process's start
    model = schema.Model.GetRootAs(content, 0)
    codes = (model.OperatorCodes(i).CustomCode() for i in range(model.OperatorCodesLength()))
    return sorted({code.decode() for code in codes if code and code.startswith(b"Flex")})


def _interpreter(content: bytes, num_threads: int, kernels: Kernels) -> Any:
    flex = flex_ops(content)
    if not flex:
        return litert.Interpreter(
            model_content=content,
            num_threads=num_threads,
            experimental_op_resolver_type=_RESOLVERS[kernels],
        )
    tensorflow = importlib.import_module("tensorflow")
    version = tuple(int(part) for part in tensorflow.__version__.split(".")[:2])
    if version >= _WITHOUT_FLEX:
        raise DataError(
            f"A file with TensorFlow's own ops can be run where the interpreter has the Flex delegate; "
            f"TensorFlow {tensorflow.__version__} and LiteRT come without, and the file has "
            f"{', '.join(flex)}. Rewrite them in preprocessing_fn, or use TensorFlow before 2.20."
        )
    return tensorflow.lite.Interpreter(model_content=content, num_threads=num_threads)


def _specs(details: Mapping[str, Mapping[str, Any]]) -> dict[str, TensorSpec]:
    specs = {}
    for name, detail in details.items():
        scale, zero_point = detail["quantization"]
        specs[name] = TensorSpec(
            name=name,
            index=int(detail["index"]),
            dtype=detail["dtype"],
            row_shape=tuple(int(n) for n in detail["shape"][1:]),
            scale=float(scale) if np.issubdtype(detail["dtype"], np.integer) else 0.0,
            zero_point=int(zero_point),
        )
    return specs


def _encode(spec: TensorSpec, column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    values = np.asarray(column)
    width = int(np.prod(spec.row_shape, dtype=int))
    if values.size != len(values) * width:
        raise DataError(
            f"Feature {spec.name!r} must have {width} values in each row; "
            f"got {len(values)} rows of shape {values.shape[1:]}."
        )
    values = values.reshape(len(values), *spec.row_shape)
    if spec.dtype in (np.bytes_, np.object_):
        if values.dtype.kind not in "SUO":
            raise DataError(f"Feature {spec.name!r} must be strings; got {values.dtype}.")
        return np.char.encode(values, "utf-8") if values.dtype.kind == "U" else values.astype(object)
    if values.dtype.kind not in "biuf":
        raise DataError(f"Feature {spec.name!r} must be numbers; got {values.dtype}.")
    if spec.scale:
        if wrong := int((~np.isfinite(values)).reshape(len(values), -1).any(axis=1).sum()):
            raise DataError(
                f"Feature {spec.name!r} must be finite, since the file takes {np.dtype(spec.dtype).name}; "
                f"got NaN or infinity in {wrong} of {len(values)} rows."
            )
        limits = np.iinfo(spec.dtype)
        steps = np.rint(values / spec.scale) + spec.zero_point
        return np.asarray(np.clip(steps, limits.min, limits.max), spec.dtype)
    return values.astype(spec.dtype)


def _by_row(spec: TensorSpec, values: npt.NDArray[Any], rows: int) -> npt.NDArray[np.float32]:
    if rows == 0 or values.size % rows:
        raise DataError(
            f"Output {spec.name!r} must have values for each row; got shape {list(values.shape)} for {rows} "
            "rows."
        )
    return _decode(spec, values).reshape(rows, -1)


def _decode(spec: TensorSpec, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if spec.scale:
        return np.asarray((values.astype(np.float32) - spec.zero_point) * spec.scale, np.float32)
    return values.astype(np.float32)
