"""What a TFLite file is made of: signatures, operators, tensors, metadata, and where each of its bytes goes.

Reads the flatbuffer alone, of any origin: nothing is run. Every byte falls into exactly one part; what the
walk through the tables does not reach is padding when it is short and zero, and 'unexplained' otherwise.
"""

import bisect
import dataclasses
import io
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.common import flatbuffer, tflite_file, tflite_metadata
from tfx_mobile.common.errors import DataError
from tfx_mobile.common.flatbuffer import Claim, Path, Table

WEIGHTS, VOCABULARY, QUANTIZATION, SPARSITY = "weights", "vocabularies", "quantization", "sparsity"
STRINGS, METADATA, STRUCTURE, PADDING = "strings", "metadata", "structure", "padding"
UNEXPLAINED = "unexplained"
KINDS = (WEIGHTS, VOCABULARY, QUANTIZATION, SPARSITY, STRINGS, METADATA, STRUCTURE, PADDING, UNEXPLAINED)

_MAX_PADDING = 64  # bytes: constants are aligned to 16, by some writers to a cache line
_MAX_SILENT = (
    8  # compressed bytes without output: a code has at most 6, so longer runs are a block's code tables
)
_MAX_STEPS = 1 << 20
_BITS = {"int4": 4, "uint4": 4, "int2": 2}
_DTYPES = {
    "float32": "<f4", "float16": "<f2", "float64": "<f8", "bfloat16": "<u2", "int8": "i1", "uint8": "u1",
    "int16": "<i2", "uint16": "<u2", "int32": "<i4", "uint32": "<u4", "int64": "<i8", "uint64": "<u8",
    "bool": "u1", "float8_e4m3fn": "u1", "float8_e5m2": "u1",
}  # fmt: skip
_SIGN_BITS = {"bfloat16": 0x7FFF, "float8_e4m3fn": 0x7F, "float8_e5m2": 0x7F}  # -0 is 0


@dataclasses.dataclass(frozen=True)
class Quantization:
    """How a tensor's integers stand for numbers: (integer - zero_point) * scale.

    Attributes:
      num_scales: 1, or one for each channel along `axis`.
      scale: The first.
      zero_point: The first.
      axis: Dimension that the channels are along.
      details: How scales are held elsewhere, for example 'BlockwiseQuantization'; empty when they are not.
    """

    num_scales: int
    scale: float
    zero_point: int
    axis: int
    details: str = ""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor.

    Attributes:
      subgraph: Index of its subgraph.
      index: In its subgraph.
      name: Often of the layer it came from; empty when the file has none.
      dtype: For example 'float32', 'int8', 'string'.
      shape: -1 where it may change from call to call.
      size_bytes: Of its constant in the file; 0 for one that is computed.
      quantization: None when it is not quantised.
      zeros_fraction: Share of a constant's values that stand for 0, in [0, 1]; None when none are counted.
      stored_fraction: Share of the values that a sparse constant stores; None when it is dense.
    """

    subgraph: int
    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    quantization: Quantization | None
    zeros_fraction: float | None
    stored_fraction: float | None


@dataclasses.dataclass(frozen=True)
class Signature:
    """A function of the file.

    Attributes:
      name: Its key; empty when the file has no signatures and this is its main subgraph.
      inputs: Tensors by the signature's names.
      outputs: Likewise.
    """

    name: str
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Operator:
    """An operator and how often it is in the file.

    Attributes:
      name: As the schema or the custom operator's author calls it.
      origin: 'built-in', 'custom', or 'Flex' (TensorFlow's own, which needs the Flex delegate).
      version: Of the operator.
      count: In all subgraphs.
    """

    name: str
    origin: str
    version: int
    count: int


@dataclasses.dataclass(frozen=True)
class Part:
    """Bytes of a file that serve one purpose.

    Attributes:
      kind: One of KINDS.
      name: Within the kind: a constant's, a field's, a table's, a metadata entry's.
      dtype: Of constants, scales and zero points; empty for others.
      size_bytes: In the file.
      gz_share_bytes: What it adds to the gzip file, estimated; those of all parts add up to its size.
    """

    kind: str
    name: str
    dtype: str
    size_bytes: int
    gz_share_bytes: float


@dataclasses.dataclass(frozen=True)
class Inspection:
    """A file's content.

    Attributes:
      size_bytes: Of the file.
      gz_size_bytes: After gzip -9.
      version: Of the TFLite schema.
      description: Free text by the converter.
      min_runtime_version: Oldest TensorFlow Lite that has all operators; empty when not said.
      num_subgraphs: Functions and branches of loops are subgraphs, too.
      signatures: Functions that can be called.
      operators: Most frequent first.
      tensors: Of all subgraphs.
      metadata: Sizes of metadata entries, bytes, by name.
      conversion: What the converter says of itself.
      standard_metadata: Written by anybody.
      model_metadata: Written by tfx-mobile.
      breakdown: Parts, largest first.
    """

    size_bytes: int
    gz_size_bytes: int
    version: int
    description: str
    min_runtime_version: str
    num_subgraphs: int
    signatures: tuple[Signature, ...]
    operators: tuple[Operator, ...]
    tensors: tuple[Tensor, ...]
    metadata: dict[str, int]
    conversion: dict[str, str]
    standard_metadata: tflite_metadata.StandardMetadata | None
    model_metadata: tflite_metadata.ModelMetadata | None
    breakdown: tuple[Part, ...]

    @property
    def explained_fraction(self) -> float:
        """Share of the bytes whose purpose is known, in [0, 1]."""
        unknown = sum(part.size_bytes for part in self.breakdown if part.kind == UNEXPLAINED)
        return 1.0 - unknown / self.size_bytes

    def by_kind(self) -> tuple[Part, ...]:
        """Returns the sum of each kind, in the order of KINDS; its name is empty."""
        kinds = [kind for kind in KINDS if any(part.kind == kind for part in self.breakdown)]
        return tuple(_sum(kind, [part for part in self.breakdown if part.kind == kind]) for kind in kinds)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return dataclasses.asdict(self) | {"explained_fraction": self.explained_fraction}


def inspect(content: bytes) -> Inspection:
    """Returns what a TFLite file is made of.

    Args:
      content: Any bytes; the file may come from anywhere.

    Raises:
      DataError: It is no TFLite file, or it is cut or damaged.
    """
    model, claims = tflite_file.read(content)
    claims = [*claims, *_outside_the_tables(model, content)]
    file = _File(model, content)
    tensors = tuple(file.tensors())
    entries = tflite_file.metadata(model)
    compressed = gz(content)
    return Inspection(
        size_bytes=len(content),
        gz_size_bytes=len(compressed),
        version=model.get("version", 0),
        description=tflite_file.text(model.get("description", b"")),
        min_runtime_version=tflite_file.text(entries.get("min_runtime_version", b"").rstrip(b"\0")),
        num_subgraphs=len(file.subgraphs),
        signatures=tuple(file.signatures(tensors)),
        operators=tuple(file.operators()),
        tensors=tensors,
        metadata={name: len(data) for name, data in entries.items()},
        conversion=_conversion(entries),
        standard_metadata=tflite_metadata.standard_of_model(model),
        model_metadata=tflite_metadata.of_model(model),
        breakdown=_breakdown(content, claims, file, tensors, compressed),
    )


def gz(content: bytes) -> bytes:
    """Returns what gzip -9 makes of a file, without name and time."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(content) + packer.flush()


class _File:
    """A model with every index checked."""

    def __init__(self, model: Table, content: bytes) -> None:
        self._model, self._content = model, content
        self.subgraphs: list[Table] = model.get("subgraphs", [])
        self._buffers: list[Table] = model.get("buffers", [])
        self._zeros: dict[int, tuple[Any, float | None]] = {}

    def tensors(self) -> Iterator[Tensor]:
        for number, subgraph in enumerate(self.subgraphs):
            for index, tensor in enumerate(subgraph.get("tensors", [])):
                yield self._tensor(number, index, tensor)

    def constant(self, tensor: Table) -> npt.NDArray[np.uint8]:
        """Returns a tensor's bytes in the file; none for one that is computed."""
        index = tensor.get("buffer", 0)
        if index == 0:
            return np.empty(0, np.uint8)
        buffer = _entry(self._buffers, index, "buffer")
        if (start := buffer.get("offset", 0)) > 1:
            return np.frombuffer(self._content[start : start + buffer.get("size", 0)], np.uint8)
        found: npt.NDArray[np.uint8] = buffer.get("data", np.empty(0, np.uint8))
        return found

    def _tensor(self, number: int, index: int, tensor: Table) -> Tensor:
        dtype = tflite_file.type_name(tensor.get("type", 0))
        shape = tuple(tensor.get("shape", np.empty(0)).tolist())
        dynamic = tuple(tensor.get("shape_signature", np.empty(0)).tolist())
        data = self.constant(tensor)
        quantization = _quantization(tensor.get("quantization"))
        zeros = stored = None
        if data.size and dtype != "string":
            zeros, num_stored = self._count_zeros(data, dtype, quantization)
            size = int(np.prod([float(extent) for extent in shape]))
            if tensor.get("sparsity") is not None and size > 0 and zeros is not None:
                stored = min(1.0, num_stored / size)
                zeros = 1.0 - stored * (1.0 - zeros)
        return Tensor(
            number,
            index,
            tflite_file.text(tensor.get("name", b"")),
            dtype,
            dynamic if len(dynamic) == len(shape) else shape,
            int(data.size),
            quantization,
            zeros,
            stored,
        )

    def _count_zeros(
        self, data: npt.NDArray[np.uint8], dtype: str, quantization: Quantization | None
    ) -> tuple[float | None, int]:
        """Returns the share of values that stand for 0, and how many values there are."""
        bits = _BITS.get(dtype, 8)
        num_values = (
            data.size * 8 // bits if bits < 8 else data.size // np.dtype(_DTYPES.get(dtype, "u1")).itemsize
        )
        if id(data) not in self._zeros:
            zero_point = quantization.zero_point if quantization else 0
            self._zeros[id(data)] = data, _zeros_fraction(data, dtype, zero_point)
        return self._zeros[id(data)][1], num_values

    def signatures(self, tensors: Sequence[Tensor]) -> Iterator[Signature]:
        starts = np.cumsum([0, *(len(subgraph.get("tensors", [])) for subgraph in self.subgraphs)]).tolist()

        def tensor(subgraph: int, index: int) -> Tensor:
            _entry(_entry(self.subgraphs, subgraph, "subgraph").get("tensors", []), index, "tensor")
            return tensors[int(starts[subgraph]) + index]

        for signature in self._model.get("signature_defs", []):
            graph = signature.get("subgraph_index", 0)
            inputs, outputs = (
                {
                    tflite_file.text(entry.get("name", b"")): tensor(graph, entry.get("tensor_index", 0))
                    for entry in signature.get(side, [])
                }
                for side in ("inputs", "outputs")
            )
            yield Signature(tflite_file.text(signature.get("signature_key", b"")), inputs, outputs)
        if not self._model.get("signature_defs") and self.subgraphs:
            inputs, outputs = (
                {tensor(0, i).name or f"tensor {i}": tensor(0, i) for i in self.subgraphs[0].get(side, ())}
                for side in ("inputs", "outputs")
            )
            yield Signature("", inputs, outputs)

    def operators(self) -> Iterator[Operator]:
        counts = Counter(
            self.operator(operator)
            for subgraph in self.subgraphs
            for operator in subgraph.get("operators", [])
        )
        for (name, origin, version), count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            yield Operator(name, origin, version, count)

    def metadata_entries(self) -> list[Table]:
        entries: list[Table] = self._model.get("metadata", [])
        return entries

    def operator(self, operator: Table) -> tuple[str, str, int]:
        """Returns an operator's name, origin and version."""
        code = _entry(self._model.get("operator_codes", []), operator.get("opcode_index", 0), "operator code")
        # files before 2020 have the code in a field of one byte
        number = max(code.get("builtin_code", 0), code.get("deprecated_builtin_code", 0))
        custom = code.get("custom_code")
        version = code.get("version", 1)
        if custom:
            name = tflite_file.text(custom)
            return name, "Flex" if name.startswith("Flex") else "custom", version
        names = tflite_file.OPERATORS
        return names[number] if 0 <= number < len(names) else f"operator {number}", "built-in", version


def _entry(entries: Sequence[Any], index: int, what: str) -> Any:
    if not 0 <= index < len(entries):
        raise DataError(
            f"A TFLite file must have each {what} it uses; got index {index} of {len(entries)}. "
            "The file is damaged."
        )
    return entries[index]


def _quantization(table: Table | None) -> Quantization | None:
    if table is None:
        return None
    scales, zero_points = table.get("scale", ()), table.get("zero_point", ())
    details = table.get("details")
    if not len(scales) and details is None:
        return None
    scale = float(scales[0]) if len(scales) else 0.0
    if not np.isfinite(scale):
        raise DataError(f"A scale must be finite; got {scale}. The file is damaged.")
    return Quantization(
        len(scales),
        scale,
        int(zero_points[0]) if len(zero_points) else 0,
        table.get("quantized_dimension", 0),
        details.type if details is not None else "",
    )


def _zeros_fraction(data: npt.NDArray[np.uint8], dtype: str, zero_point: int) -> float | None:
    if dtype in _BITS:
        bits = _BITS[dtype]
        wanted = zero_point % (1 << bits)
        fields = [(data >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
        return float(np.mean([np.mean(field == wanted) for field in fields]))
    if dtype not in _DTYPES:
        return None
    stored = np.dtype(_DTYPES[dtype])
    values = data[: data.size - data.size % stored.itemsize].view(stored)
    if not values.size:
        return None
    if dtype in _SIGN_BITS:
        values = values & stored.type(_SIGN_BITS[dtype])
    return float(np.mean(values == (zero_point if stored.kind in "iu" else 0)))


def _conversion(entries: Mapping[str, bytes]) -> dict[str, str]:
    raw = entries.get("CONVERSION_METADATA", b"")
    if len(raw) < 8:
        return {}
    root, _ = flatbuffer.read(raw, tflite_file.CONVERSION_SCHEMA, "ConversionMetadata", header_bytes=4)
    environment = root.get("environment", Table("Environment"))
    options = root.get("options", Table("ConversionOptions"))
    modes = [
        tflite_file.OPTIMIZATION_MODES.get(mode, str(mode))
        for mode in options.get("model_optimization_modes", np.empty(0)).tolist()
    ]
    found = {"tensorflow": tflite_file.text(environment.get("tensorflow_version", b""))}
    return found | ({"optimization": ", ".join(modes)} if modes else {})


def _outside_the_tables(model: Table, content: bytes) -> Iterator[Claim]:
    """Yields buffers and options of files beyond 2 GB, and the files of an appended ZIP."""

    def claim(start: int, size: int, path: Path) -> Claim:
        if start + size > len(content):
            raise DataError(
                f"A TFLite file must hold all it points to; {'.'.join(map(str, path))} is at bytes {start} "
                f"to {start + size} of {len(content)}. The file is cut or damaged."
            )
        return Claim(start, start + size, path, "vector")

    for i, buffer in enumerate(model.get("buffers", [])):
        if (start := buffer.get("offset", 0)) > 1:
            yield claim(start, buffer.get("size", 0), ("buffers", i, "data"))
    for i, subgraph in enumerate(model.get("subgraphs", [])):
        for j, operator in enumerate(subgraph.get("operators", [])):
            if (start := operator.get("large_custom_options_offset", 0)) > 1:
                path = ("subgraphs", i, "operators", j, "custom_options")
                yield claim(start, operator.get("large_custom_options_size", 0), path)
    yield from _zip_claims(content)


def _zip_claims(content: bytes) -> Iterator[Claim]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
            directory = archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OSError, OverflowError):
        return  # no ZIP, which is usual
    starts = [entry.header_offset for entry in entries]
    for entry, start, end in zip(entries, starts, [*starts[1:], directory], strict=True):
        if 0 <= start < end <= len(content):
            yield Claim(
                start, end, ("zip", tflite_file.text(entry.filename.encode("utf-8", "replace"))), "file"
            )
    if starts and 0 <= directory <= len(content):
        yield Claim(directory, len(content), ("zip", "directory of associated files"), "file")


def _breakdown(
    content: bytes, claims: Sequence[Claim], file: _File, tensors: Sequence[Tensor], compressed: bytes
) -> tuple[Part, ...]:
    namer = _Namer(file, tensors)
    cost = _Costs(content, compressed)
    sizes: dict[tuple[str, str, str], list[float]] = {}

    def add(key: tuple[str, str, str], start: int, end: int) -> None:
        entry = sizes.setdefault(key, [0, 0.0])
        entry[0] += end - start
        entry[1] += cost.between(start, end)

    def gap(start: int, end: int) -> None:
        if start < end:
            padding = end - start < _MAX_PADDING and not any(content[start:end])
            add((PADDING if padding else UNEXPLAINED, "", ""), start, end)

    position = 0
    for claim in sorted(claims, key=lambda claim: (claim.start, claim.end)):
        gap(position, claim.start)
        if claim.end > position:
            add(namer.name(claim), max(position, claim.start), claim.end)
            position = claim.end
    gap(position, len(content))
    parts = [Part(*key, int(size), share) for key, (size, share) in sizes.items()]
    return tuple(sorted(parts, key=lambda part: (-part.size_bytes, part.kind, part.name, part.dtype)))


class _Namer:
    """Says what a range of bytes is for."""

    def __init__(self, file: _File, tensors: Sequence[Tensor]) -> None:
        self._tensors = {(tensor.subgraph, tensor.index): tensor for tensor in tensors}
        self._buffers: dict[int, tuple[str, str, str]] = {}
        users = _users(file)
        for i, subgraph in enumerate(file.subgraphs):
            for j, table in enumerate(subgraph.get("tensors", [])):
                tensor = self._tensors[i, j]
                kind = VOCABULARY if tensor.dtype == "string" else WEIGHTS
                name = tensor.name or f"{users.get((i, j), 'tensor')} {j}"
                self._buffers.setdefault(table.get("buffer", 0), (kind, name, tensor.dtype))
        for entry in file.metadata_entries():
            self._buffers.setdefault(
                entry.get("buffer", 0), (METADATA, tflite_file.text(entry.get("name", b"")), "")
            )

    def name(self, claim: Claim) -> tuple[str, str, str]:
        """Returns the kind, name and dtype of a claim."""
        path, role = claim.path, claim.role
        top = str(path[0]) if path else "model"
        if top == "zip":
            return METADATA, str(path[1]), ""
        if role in ("vtable", "prefix", "header"):
            return STRUCTURE, {"vtable": "vtables", "prefix": "vector lengths", "header": "header"}[role], ""
        if top == "buffers" and path[2:] == ("data",):
            return self._buffers.get(int(path[1]), (STRUCTURE, "unused buffers", ""))
        if top == "subgraphs" and len(path) > 2:
            return self._in_subgraph(path, role)
        if role == "string":
            names = {"signature_defs": "signatures", "operator_codes": "operators", "metadata": "metadata"}
            return STRINGS, names.get(top, top), ""
        return (METADATA if top == "metadata" else STRUCTURE), top, ""

    def _in_subgraph(self, path: Path, role: str) -> tuple[str, str, str]:
        fields = [str(step) for step in path if isinstance(step, str)][1:]
        if "quantization" in fields:
            types = {"scale": "float32", "min": "float32", "max": "float32", "zero_point": "int64"}
            return QUANTIZATION, fields[-1] if role == "vector" else "tables", types.get(fields[-1], "")
        if "sparsity" in fields:
            tensor = self._tensors[int(path[1]), int(path[3])]
            return SPARSITY, tensor.name or f"tensor {tensor.index}", ""
        if role == "string":
            return STRINGS, fields[0] if len(fields) > 1 else "subgraphs", ""
        if fields[0] == "operators" and len(fields) > 1:
            return STRUCTURE, f"operators: {fields[1].replace('builtin_options_2', 'builtin_options')}", ""
        if fields[0] == "tensors" and len(fields) > 1:
            return STRUCTURE, "tensors: shapes", ""
        return STRUCTURE, fields[0], ""


def _users(file: _File) -> dict[tuple[int, int], str]:
    """Returns the name of the first operator that takes a tensor."""
    found: dict[tuple[int, int], str] = {}
    for i, subgraph in enumerate(file.subgraphs):
        for operator in subgraph.get("operators", []):
            name, _, _ = file.operator(operator)
            for j in operator.get("inputs", np.empty(0)).tolist():
                found.setdefault((i, j), name)
    return found


class _Costs:
    """What ranges of a file cost in its gzip file.

    The compressed file is decompressed byte by byte. The bytes that a compressed byte yields share its cost;
    code tables, head and checksum are shared by all. A repetition costs where it stands, and not where it was
    copied from.
    """

    def __init__(self, content: bytes, compressed: bytes) -> None:
        step = -(-len(compressed) // _MAX_STEPS)
        unpacker = zlib.decompressobj(31)
        ends, costs = [0], [0.0]
        made = silent = 0
        for start in range(0, len(compressed), step):
            made += len(unpacker.decompress(compressed[start : start + step]))
            silent += min(step, len(compressed) - start)
            if made > ends[-1]:
                ends.append(made)
                costs.append(costs[-1] + (silent if silent <= _MAX_SILENT * step else step))
                silent = 0
        self._ends, self._costs = ends, costs
        self._scale = len(compressed) / costs[-1]

    def between(self, start: int, end: int) -> float:
        """Returns the share of the bytes from start to end."""
        return self._scale * (self._until(end) - self._until(start))

    def _until(self, position: int) -> float:
        i = bisect.bisect_right(self._ends, position)
        if i == len(self._ends):
            return self._costs[-1]
        first, last = self._ends[i - 1], self._ends[i]
        share = (position - first) / (last - first)
        return self._costs[i - 1] + share * (self._costs[i] - self._costs[i - 1])


def _sum(kind: str, parts: Sequence[Part]) -> Part:
    size, share = sum(part.size_bytes for part in parts), sum(part.gz_share_bytes for part in parts)
    return Part(kind, "", "", size, share)
