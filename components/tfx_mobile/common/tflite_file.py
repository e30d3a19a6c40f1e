"""What is in a TFLite file: its tables as the schema describes them, checked, and every byte's place.

Source: the TFLite schema (tensorflow/compiler/mlir/lite/schema/schema.fbs), version 3, and its conversion
metadata (tensorflow/compiler/mlir/lite/schema/conversion_metadata.fbs). Tables that have neither offsets nor
vectors, as most operators' options, are not described: their bytes are kept as they are.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as generated

from tfx_mobile.common import flatbuffer
from tfx_mobile.common.errors import DataError
from tfx_mobile.common.flatbuffer import Claim, Schema, Table

IDENTIFIER = b"TFL3"

_TABLES = """
Model version:uint operator_codes:[OperatorCode] subgraphs:[SubGraph] description:string buffers:[Buffer] \
metadata_buffer:[int] metadata:[Metadata] signature_defs:[SignatureDef] \
external_buffer_groups:[ExternalBufferGroup] external_buffers:[ExternalBuffer]
OperatorCode deprecated_builtin_code:byte custom_code:string version:int=1 builtin_code:int
SubGraph tensors:[Tensor] inputs:[int] outputs:[int] operators:[Operator] name:string \
debug_metadata_index:int=-1
Tensor shape:[int] type:byte buffer:uint name:string quantization:QuantizationParameters is_variable:bool \
sparsity:SparsityParameters shape_signature:[int] has_rank:bool variant_tensors:[VariantSubType] \
external_buffer:uint
VariantSubType shape:[int] type:byte has_rank:bool
QuantizationParameters min:[float] max:[float] scale:[float] zero_point:[long] details_type:ubyte \
details:QuantizationDetails quantized_dimension:int
CustomQuantization custom:[ubyte]@16
BlockwiseQuantization scales:int zero_points:int block_size:int block_shape:[int]
MultiAxisQuantization scales:int zero_points:int block_size:int quantized_dimensions:[int]
SparsityParameters traversal_order:[int] block_map:[int] dim_metadata:[DimensionMetadata]
DimensionMetadata format:byte dense_size:int array_segments_type:ubyte array_segments:SparseIndexVector \
array_indices_type:ubyte array_indices:SparseIndexVector
Int32Vector values:[int]
Uint16Vector values:[ushort]@4
Uint8Vector values:[ubyte]@4
Operator opcode_index:uint inputs:[int] outputs:[int] builtin_options_type:ubyte \
builtin_options:BuiltinOptions custom_options:[ubyte] custom_options_format:byte \
mutating_variable_inputs:[bool] intermediates:[int] large_custom_options_offset:ulong \
large_custom_options_size:ulong builtin_options_2_type:ubyte builtin_options_2:BuiltinOptions2 \
debug_metadata_index:int=-1
Buffer data:[ubyte]@16 offset:ulong size:ulong
ExternalBufferGroup name:string
ExternalBuffer id:uint group:uint offset:ulong length:ulong packing:string
Metadata name:string buffer:uint
TensorMap name:string tensor_index:uint
SignatureDef inputs:[TensorMap] outputs:[TensorMap] signature_key:string _:string subgraph_index:uint
ConcatEmbeddingsOptions num_channels:int num_columns_per_channel:[int] embedding_dim_per_channel:[int]
FullyConnectedOptions fused_activation_function:byte weights_format:byte keep_num_dims:bool \
asymmetric_quantize_inputs:bool quantized_bias_type:byte quant_spec:[ubyte]
ReshapeOptions new_shape:[int]
SqueezeOptions squeeze_dims:[int]
VarHandleOptions container:string shared_name:string
BucketizeOptions boundaries:[float]
StablehloBroadcastInDimOptions broadcast_dimensions:[long]
StablehloCaseOptions branch_subgraph_indices:[int]
StablehloConvolutionOptions window_strides:[long] padding:[long] lhs_dilation:[long] rhs_dilation:[long] \
window_reversal:[bool] input_batch_dimension:long input_feature_dimension:long \
input_spatial_dimensions:[long] kernel_input_feature_dimension:long kernel_output_feature_dimension:long \
kernel_spatial_dimensions:[long] output_batch_dimension:long output_feature_dimension:long \
output_spatial_dimensions:[long] feature_group_count:long batch_group_count:long precision_config:[uint]
StablehloCustomCallOptions call_target_name:string has_side_effect:bool backend_config:string \
api_version:int called_computations:[int] custom_attributes:[ubyte]
StablehloDotGeneralOptions lhs_batching_dimensions:[long] rhs_batching_dimensions:[long] \
lhs_contracting_dimensions:[long] rhs_contracting_dimensions:[long] precision_config:[uint]
StablehloDynamicSliceOptions slice_sizes:[long]
StablehloGatherOptions offset_dims:[long] collapsed_slice_dims:[long] start_index_map:[long] \
index_vector_dim:long slice_sizes:[long] indices_are_sorted:bool
StablehloPadOptions edge_padding_low:[long] edge_padding_high:[long] interior_padding:[long]
StablehloReduceOptions dimensions:[long] body_subgraph_index:int
StablehloReduceWindowOptions window_dimensions:[long] window_strides:[long] base_dilations:[long] \
window_dilations:[long] padding:[long] body_subgraph_index:int
StablehloScatterOptions indices_are_sorted:bool update_window_dims:[long] inserted_window_dims:[long] \
scatter_dims_to_operand_dims:[long] index_vector_dim:long unique_indices:bool \
update_computation_subgraph_index:int
StablehloSliceOptions start_indices:[long] limit_indices:[long] strides:[long]
StablehloTransposeOptions permutation:[long]
StableHLOCompositeOptions name:string decomposition_subgraph_index:int composite_attributes:[ubyte] \
composite_attributes_format:byte version:int
"""

_CONVERSION_TABLES = """
ConversionMetadata environment:Environment options:ConversionOptions
Environment tensorflow_version:string api_version:uint model_type:int
ConversionOptions model_optimization_modes:[int] allow_custom_ops:bool enable_select_tf_ops:bool \
force_select_tf_ops:bool sparsity_block_sizes:[SparsityBlockSize]
SparsityBlockSize values:[uint]
"""


def _names(enumeration: Any) -> tuple[str, ...]:
    """Returns an enumeration's names at their values."""
    by_value = {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}
    return tuple(by_value.get(value, f"unknown {value}") for value in range(max(by_value) + 1))


OPERATORS = _names(generated.BuiltinOperator)
_TYPES = tuple(name.lower() for name in _names(generated.TensorType))

OPTIMIZATION_MODES = {  # ModelOptimizationMode of the conversion metadata
    1001: "float16", 1002: "dynamic range", 1003: "full integer", 1004: "16-bit activations",
    2000: "quantisation-aware training", 3001: "random sparsity", 3002: "block sparsity",
    3003: "structured sparsity",
}  # fmt: skip

SCHEMA = Schema(
    _TABLES,
    {
        union: _names(getattr(generated, union))
        for union in ("QuantizationDetails", "SparseIndexVector", "BuiltinOptions", "BuiltinOptions2")
    },
)
CONVERSION_SCHEMA = Schema(_CONVERSION_TABLES, {})


def read(content: bytes) -> tuple[Table, list[Claim]]:
    """Returns a file's model and which bytes hold what.

    Raises:
      DataError: It is no TFLite file, or it is cut or damaged.
    """
    if content[4:8] != IDENTIFIER:
        raise DataError(f"A TFLite file must have {IDENTIFIER.decode()} at byte 4; got {content[4:8]!r}.")
    return flatbuffer.read(content, SCHEMA, "Model")


def write(model: Table) -> bytes:
    """Returns the file of a model, equal parts stored once, constants at multiples of 16 bytes.

    Raises:
      DataError: The model has fields newer than our schema.
    """
    return flatbuffer.write(model, SCHEMA, IDENTIFIER)


def to_rewrite(content: bytes) -> Table:
    """Returns the model of a file that can be written anew from its tables.

    Raises:
      DataError: As `read`; or there is content behind or beside the tables, which rewriting would lose.
    """
    model, claims = read(content)
    outside = any(buffer.get("offset", 0) > 1 for buffer in model.get("buffers", []))
    large = any(
        operator.get("large_custom_options_offset", 0) > 1
        for subgraph in model.get("subgraphs", [])
        for operator in subgraph.get("operators", [])
    )
    rest = content[max(claim.end for claim in claims) :]
    if outside or large or rest.strip(b"\0"):
        raise DataError(
            f"A TFLite file to rewrite must have all its content in its tables; got {len(rest)} bytes behind "
            "them, such as buffers of a file beyond 2 GB or associated files in a ZIP. Take the file as the "
            "converter wrote it."
        )
    return model


def type_name(code: int) -> str:
    """Returns a tensor type's name, for example 'float32'."""
    return _TYPES[code] if 0 <= code < len(_TYPES) else f"type {code}"


def metadata(model: Table) -> Mapping[str, bytes]:
    """Returns the content of the model's metadata entries by name; of two of a name the first."""
    buffers = model.get("buffers", [])
    found: dict[str, bytes] = {}
    for entry in model.get("metadata", []):
        index = entry.get("buffer", 0)
        if index < len(buffers):
            data = buffers[index].get("data", np.empty(0, np.uint8)).tobytes()
            found.setdefault(text(entry.get("name", b"")), data)
    return found


def constant(model: Table, tensor: Table) -> npt.NDArray[np.uint8]:
    """Returns the bytes that a tensor has in the file; none for one that is computed."""
    buffers = model.get("buffers", [])
    index = tensor.get("buffer", 0)
    empty: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
    return buffers[index].get("data", empty) if 0 < index < len(buffers) else empty


def text(raw: bytes) -> str:
    """Returns a name of the file as text that can be printed."""
    return "".join(c if c.isprintable() else "?" for c in raw.decode("utf-8", "replace"))


def string_constants(model: Table) -> list[bytes]:
    """Returns the bytes of every constant of strings, each once."""
    found: dict[int, bytes] = {}
    for subgraph in model.get("subgraphs", []):
        for tensor in subgraph.get("tensors", []):
            index = tensor.get("buffer", 0)
            if tensor.get("type", 0) == generated.TensorType.STRING and index not in found:
                found[index] = constant(model, tensor).tobytes()
    return [data for data in dict.fromkeys(found.values()) if data]
