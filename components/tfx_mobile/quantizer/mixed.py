"""Quantising a float32 TFLite file by ai-edge-quantizer, whole or with layers left in float32.

For what TensorFlow's converter has not: weights only, four bits, scales for blocks, and layers that stay as
they are. Bytes in, bytes out; no TensorFlow.
"""

import contextlib
import fnmatch
import io
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt  # before ai_edge_quantizer, which takes it for granted
from ai_edge_litert import schema_py_generated as schema

from tfx_mobile.common import candidates, tflite_objects, tflite_weights
from tfx_mobile.common.errors import DataError
from tfx_mobile.common.interpreter import SIGNATURE, TFLiteModel
from tfx_mobile.quantizer.config import Mode, Quantization

Columns = Mapping[str, npt.NDArray[Any]]
Layers = Mapping[str, tuple[str, ...]]

_EVERYTHING = ".*"
_SMALLEST_TABLE = 128  # values; of smaller ones the operator that is added takes more than is saved
_LARGEST = 127


def layers(content: bytes, kernels: Mapping[str, npt.NDArray[Any]]) -> dict[str, tuple[str, ...]]:
    """Returns, for each Keras layer that has weights in the file, the outputs of the ops that use them.

    Args:
      content: A float32 TFLite file.
      kernels: Keras weights of two or more dimensions by name, '<layer>/<weight>'.
    """
    subgraphs = tflite_objects.read(content).subgraphs
    found: dict[str, list[str]] = {}
    for name, places in tflite_weights.locate(content, kernels).items():
        for subgraph, tensor in places:
            found.setdefault(layer_of(name), []).extend(_users(subgraphs[subgraph], tensor))
    return {layer: tuple(outputs) for layer, outputs in found.items() if outputs}


def layer_of(weight: str) -> str:
    """Returns the layer that a weight belongs to: 'hidden_1' of 'hidden_1/kernel'."""
    return weight.rpartition("/")[0] or weight


def matching(known: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Returns the layers that patterns name.

    Raises:
      DataError: A pattern names none.
    """
    names = list(known)
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise DataError(
                f"exclude must name layers with weights; {pattern!r} is not among {', '.join(sorted(names))}."
            )
    return [name for name in names if any(fnmatch.fnmatchcase(name, one) for one in patterns)]


def quantize(
    content: bytes, quantization: Quantization, rows: Columns, *, outputs_in_float: Collection[str] = ()
) -> bytes:
    """Returns the quantised file.

    Args:
      content: A float32 TFLite file with the signature 'serving_default'.
      quantization: Any mode but the float ones.
      rows: Inputs that give activations their ranges, by name.
      outputs_in_float: Ops that have one of these outputs are left as they are.

    Raises:
      DataError: ai-edge-quantizer refuses; or block_size fits no layer.
    """
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer

    operations = qtyping.TFLOperationName
    made = quantizer.Quantizer(content)

    def leave(regex: str, operation: Any) -> None:
        made.update_quantization_recipe(regex, operation, None, algorithm_manager.AlgorithmName.NO_QUANTIZE)

    mode = quantization.mode
    if mode in (Mode.INT8, Mode.INT16X8):
        made.add_static_config(_EVERYTHING, operations.ALL_SUPPORTED, 16 if mode is Mode.INT16X8 else 8, 8)
        leave(_EVERYTHING, operations.INPUT)
        leave(_EVERYTHING, operations.OUTPUT)
    elif mode is Mode.WEIGHT_ONLY_INT8:
        made.add_weight_only_config(_EVERYTHING, operations.ALL_SUPPORTED, 8)
    else:
        made.add_dynamic_config(_EVERYTHING, operations.ALL_SUPPORTED, 4 if mode is Mode.INT4 else 8)
    if quantization.block_size:
        granularity = qtyping.QuantGranularity(f"BLOCKWISE_{quantization.block_size}")
        for output in _divisible(content, quantization.block_size):
            made.add_dynamic_config(_only(output), operations.FULLY_CONNECTED, 4, granularity)
    for output in outputs_in_float:
        leave(_only(output), operations.ALL_SUPPORTED)
    silent = io.StringIO()
    try:
        with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
            # One batch: its ranges are the extremes of all rows, where several are averaged.
            ranges = (
                made.calibrate({SIGNATURE: [dict(rows)]}, num_threads=1) if made.need_calibration else None
            )
            found = bytes(made.quantize(ranges).quantized_model or b"")
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"ai-edge-quantizer refuses: {' '.join(str(error).split())[:300]}") from error
    if mode in (Mode.INT8, Mode.INT16X8):
        return found
    return quantize_tables(found, set(outputs_in_float))


def sensitivities(
    content: bytes,
    quantization: Quantization,
    rows: Columns,
    wanted: npt.NDArray[np.float32],
    known: Layers,
) -> dict[str, float]:
    """Returns how far the predictions move when a layer alone is quantised, for each layer.

    Args:
      content: A float32 TFLite file.
      quantization: How.
      rows: Inputs by name.
      wanted: The float model's predictions of them, shape (rows, outputs).
      known: From `layers`.

    Returns:
      Mean absolute differences, label units, the largest first.
    """
    everything = {output for outputs in known.values() for output in outputs}
    found = {}
    for layer, own in known.items():
        only = quantize(content, quantization, rows, outputs_in_float=sorted(everything - set(own)))
        found[layer] = float(np.abs(TFLiteModel(only).predict(rows) - wanted).mean())
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def leave_worst_in_float(
    content: bytes,
    quantization: Quantization,
    rows: Columns,
    wanted: npt.NDArray[np.float32],
    known: Layers,
) -> tuple[bytes, str]:
    """Returns the file with `exclude` and the `keep_float` worst layers in float32, and which they are.

    Fewer than `keep_float` where the file would be larger than `max_gz_ratio` allows.

    Args:
      content: A float32 TFLite file.
      quantization: With `exclude`, `keep_float` or both.
      rows: Inputs by name.
      wanted: The float model's predictions of them, shape (rows, outputs).
      known: From `layers`.

    Raises:
      DataError: A pattern of `exclude` names no layer, or the file is too large with no layer kept at all.
    """
    excluded = matching(known, quantization.exclude)
    rest = {layer: outputs for layer, outputs in known.items() if layer not in excluded}
    worst: list[str] = []
    if quantization.keep_float:
        worst = list(sensitivities(content, quantization, rows, wanted, rest))[: quantization.keep_float]
    limit = quantization.max_gz_ratio * candidates.gz_size_bytes(content)
    for num_kept in range(len(worst), -1, -1):
        kept = [*excluded, *worst[:num_kept]]
        outputs = [output for layer in kept for output in known[layer]]
        made = quantize(content, quantization, rows, outputs_in_float=outputs)
        size_bytes = candidates.gz_size_bytes(made)
        if quantization.max_gz_ratio == 1 or size_bytes <= limit:
            return made, f"in float32: {', '.join(kept) or 'no layer'}"
    raise DataError(
        f"The file must be at most {quantization.max_gz_ratio:g} of the float32 file's gz size; got "
        f"{size_bytes / candidates.gz_size_bytes(content):.3g} with no layer kept in float32. Raise "
        "max_gz_ratio."
    )


def _only(output: str) -> str:
    return f"(^|;){re.escape(output)};*$"


def _users(subgraph: Any, tensor: int) -> list[str]:
    return [
        _output_name(subgraph, operator)
        for operator in subgraph.operators
        if operator.inputs is not None and tensor in operator.inputs
    ]


def _divisible(content: bytes, block_size: int) -> list[str]:
    """Returns the outputs of the dense layers whose number of inputs is a multiple of the block size."""
    model = tflite_objects.read(content)
    found, widths = [], []
    for subgraph in model.subgraphs:
        for operator in _operators(model, subgraph, schema.BuiltinOperator.FULLY_CONNECTED):
            width = int(subgraph.tensors[operator.inputs[1]].shape[1])
            widths.append(str(width))
            if width % block_size == 0:
                found.append(_output_name(subgraph, operator))
    if not found:
        raise DataError(
            f"block_size must divide the number of inputs of a dense layer; {block_size} divides none of "
            f"{', '.join(widths) or 'none'}."
        )
    return found


def _operators(model: Any, subgraph: Any, builtin: int) -> list[Any]:
    codes = {i for i, code in enumerate(model.operatorCodes) if code.builtinCode == builtin}
    return [operator for operator in subgraph.operators if operator.opcodeIndex in codes]


def quantize_tables(content: bytes, outputs_in_float: Collection[str] = ()) -> bytes:
    """Returns the file with the tables of embeddings in int8.

    ai-edge-quantizer leaves all in float32, TensorFlow's converter those of fewer than 1,024 values.

    Args:
      content: A TFLite file.
      outputs_in_float: Lookups that have one of these outputs are left as they are.
    """
    model = tflite_objects.read(content)
    gathers: dict[tuple[int, int], list[Any]] = {}
    for i, subgraph in enumerate(model.subgraphs):
        for operator in _operators(model, subgraph, schema.BuiltinOperator.GATHER):
            gathers.setdefault((i, int(operator.inputs[0])), []).append(operator)
    changed = False
    for (i, position), users in gathers.items():
        subgraph = model.subgraphs[i]
        table = subgraph.tensors[position]
        data = model.buffers[table.buffer].data
        if table.type != schema.TensorType.FLOAT32 or data is None or np.prod(table.shape) < _SMALLEST_TABLE:
            continue
        if any(_output_name(subgraph, operator) in outputs_in_float for operator in users):
            continue
        _store_in_int8(model, table)
        for operator in users:
            _dequantize_after(model, subgraph, operator, table.quantization)
        changed = True
    return tflite_objects.write(model) if changed else content


def _store_in_int8(model: Any, table: Any) -> None:
    values = np.frombuffer(np.asarray(model.buffers[table.buffer].data, np.uint8).tobytes(), np.float32)
    scale = float(np.abs(values).max()) / _LARGEST or 1.0
    old, buffer = table.buffer, schema.BufferT()
    buffer.data = np.rint(values / scale).astype(np.int8).view(np.uint8)
    model.buffers.append(buffer)
    table.buffer = len(model.buffers) - 1
    if not any(tensor.buffer == old for subgraph in model.subgraphs for tensor in subgraph.tensors):
        model.buffers[old].data = None
    table.type = schema.TensorType.INT8
    table.quantization = schema.QuantizationParametersT()
    table.quantization.scale = np.array([scale], np.float32)
    table.quantization.zeroPoint = np.array([0], np.int64)


def _dequantize_after(model: Any, subgraph: Any, operator: Any, quantization: Any) -> None:
    """Lets an operator return int8 and adds the op that makes the old output of it."""
    result = int(operator.outputs[0])
    old = subgraph.tensors[result]
    stored = schema.TensorT()
    stored.name, stored.shape, stored.shapeSignature = old.name + b"/int8", old.shape, old.shapeSignature
    stored.type, stored.quantization, stored.buffer = schema.TensorType.INT8, quantization, 0
    subgraph.tensors.append(stored)
    operator.outputs = np.array([len(subgraph.tensors) - 1], np.int32)
    model.operatorCodes[operator.opcodeIndex].version = max(
        2, model.operatorCodes[operator.opcodeIndex].version
    )
    added = schema.OperatorT()
    added.opcodeIndex = _code_of(model, schema.BuiltinOperator.DEQUANTIZE, version=2)
    added.inputs, added.outputs = operator.outputs, np.array([result], np.int32)
    subgraph.operators.insert(subgraph.operators.index(operator) + 1, added)


def _code_of(model: Any, builtin: int, version: int) -> int:
    for i, code in enumerate(model.operatorCodes):
        if code.builtinCode == builtin and code.version >= version:
            return i
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _output_name(subgraph: Any, operator: Any) -> str:
    return str(subgraph.tensors[operator.outputs[0]].name.decode().rstrip(";"))
