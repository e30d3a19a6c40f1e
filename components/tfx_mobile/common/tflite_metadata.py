"""What a TFLite file says about itself: the standard metadata that other tools read, and an entry of our own.

`write` puts both in. The standard entry (names, descriptions, author, licence) is for Android's and
MediaPipe's metadata extractors and for viewers. Ours, `tfx_mobile`, is JSON and has only what the standard
has no place for: units, missing values, vocabularies, gates. Types are those of the file's tensors.
Vocabularies are in the file already, as constants of its tables, and are found there by their hash: they are
not stored twice, and whatever renumbers the tensors does not lose them.

Source: tensorflow_lite_support/metadata/metadata_schema.fbs, version 1.1.0.
"""

import dataclasses
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfx_mobile.common import flatbuffer, jsonable, tflite_file
from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.common.flatbuffer import Schema, Table

ENTRY = "tfx_mobile"
STANDARD_ENTRY = "TFLITE_METADATA"
SCHEMA_VERSION = 1
_STANDARD_IDENTIFIER = b"M001"
_MAX_JSON_BYTES = 1 << 24

# Associated files, process units and contents other than plain features are read, and never written.
_STANDARD_SCHEMA = Schema(
    """
ModelMetadata name:string description:string version:string subgraph_metadata:[SubGraphMetadata] \
author:string license:string associated_files:[AssociatedFile] min_parser_version:string
SubGraphMetadata name:string description:string input_tensor_metadata:[TensorMetadata] \
output_tensor_metadata:[TensorMetadata] associated_files:[AssociatedFile] \
input_process_units:[ProcessUnit] output_process_units:[ProcessUnit]
TensorMetadata name:string description:string dimension_names:[string] content:Content \
process_units:[ProcessUnit] stats:Stats associated_files:[AssociatedFile]
Content content_properties_type:ubyte content_properties:ContentProperties range:ValueRange
Stats max:[float] min:[float]
ProcessUnit options_type:ubyte options:ProcessUnitOptions
NormalizationOptions mean:[float] std:[float]
BertTokenizerOptions vocab_file:[AssociatedFile]
SentencePieceTokenizerOptions sentencePiece_model:[AssociatedFile] vocab_file:[AssociatedFile]
AssociatedFile name:string description:string type:byte locale:string
""",
    {
        "ContentProperties": ("NONE", "FeatureProperties", "ImageProperties", "BoundingBoxProperties"),
        "ProcessUnitOptions": (
            "NONE",
            "NormalizationOptions",
            "ScoreCalibrationOptions",
            "ScoreThresholdingOptions",
            "BertTokenizerOptions",
            "SentencePieceTokenizerOptions",
        ),
    },
)


@dataclasses.dataclass(frozen=True)
class Feature(jsonable.Settings):
    """An input of the file, or its output.

    Attributes:
      name: As in the file's signature.
      dtype: For example 'float32', 'int64', 'string'.
      unit: For example 'mile'; empty when there is none, or none is known.
      description: One line.
      missing: What to give for a value that is not known; None when there must be one.
    """

    name: str
    dtype: str
    unit: str = ""
    description: str = ""
    missing: str | int | float | None = None


@dataclasses.dataclass(frozen=True)
class Vocabulary(jsonable.Settings):
    """Names the constant that holds a feature's strings.

    Attributes:
      num_values: How many strings.
      sha256: Of the constant's bytes.
    """

    num_values: int
    sha256: str

    @classmethod
    def of(cls, values: Sequence[bytes]) -> "Vocabulary":
        """Returns how to find these strings, in this order."""
        return cls(len(values), hashlib.sha256(pack_strings(values)).hexdigest())


@dataclasses.dataclass(frozen=True)
class ModelMetadata(jsonable.Settings):
    """What both entries say together.

    Attributes:
      name: Of the model, for example 'taxi-fare'.
      version: Of the model; text, since not everybody counts.
      inputs: All of the file; the file's order is kept, not this one's.
      label: What is predicted.
      description: One line.
      author: Person or team.
      license: SPDX identifier or text.
      vocabularies: By feature.
      gates: What was measured when the file was chosen, by gate; empty before that.
      pipeline_run: Which run made it; empty when unknown.
    """

    name: str
    version: str
    inputs: tuple[Feature, ...]
    label: Feature
    description: str = ""
    author: str = ""
    license: str = ""
    vocabularies: dict[str, Vocabulary] = dataclasses.field(default_factory=dict)
    gates: dict[str, float] = dataclasses.field(default_factory=dict)
    pipeline_run: str = ""

    def __post_init__(self) -> None:
        names = [feature.name for feature in self.inputs]
        if len(set(names)) != len(names):
            raise ConfigError(f"inputs must have different names; got {', '.join(names)}.")


@dataclasses.dataclass(frozen=True)
class _Entry(jsonable.Settings):
    """What our entry holds: nothing that the file or the standard entry says.

    Attributes:
      label: In words of its own, since an output may have another name.
      units: By input; those that have one.
      missing: By input; those for which there is such a value.
      vocabularies: See ModelMetadata, as the following.
      gates: By gate.
      pipeline_run: Which run.
      schema_version: Of this entry.
    """

    label: Feature
    units: dict[str, str] = dataclasses.field(default_factory=dict)
    missing: dict[str, str | int | float] = dataclasses.field(default_factory=dict)
    vocabularies: dict[str, Vocabulary] = dataclasses.field(default_factory=dict)
    gates: dict[str, float] = dataclasses.field(default_factory=dict)
    pipeline_run: str = ""
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def of(cls, metadata: ModelMetadata) -> "_Entry":
        return cls(
            metadata.label,
            {feature.name: feature.unit for feature in metadata.inputs if feature.unit},
            {feature.name: feature.missing for feature in metadata.inputs if feature.missing is not None},
            metadata.vocabularies,
            metadata.gates,
            metadata.pipeline_run,
        )

    def pack(self) -> bytes:
        """Returns JSON without what is empty, compressed when that is smaller."""
        values = {key: value for key, value in self.to_dict().items() if value}
        label = {key: value for key, value in values["label"].items() if value not in ("", None)}
        values["label"] = {"name": "", "dtype": "", **label}
        text = jsonable.dumps(values).encode()
        return min(text, zlib.compress(text, 9), key=len)


@dataclasses.dataclass(frozen=True)
class TensorDescription:
    """What standard metadata says of an input or output; empty where it says nothing."""

    name: str
    description: str


@dataclasses.dataclass(frozen=True)
class StandardMetadata:
    """What standard metadata says of a file; empty where it says nothing.

    Attributes:
      name: Of the model.
      description: Of the model.
      version: Of the model.
      author: Of the model.
      license: Of the model.
      min_parser_version: Of the reader.
      inputs: Of the main subgraph, in its order.
      outputs: Likewise.
      associated_files: Names of files in the ZIP that is appended to the file.
    """

    name: str
    description: str
    version: str
    author: str
    license: str
    min_parser_version: str
    inputs: tuple[TensorDescription, ...]
    outputs: tuple[TensorDescription, ...]
    associated_files: tuple[str, ...]


def write(content: bytes, metadata: ModelMetadata) -> bytes:
    """Returns the file with both entries, in place of older ones; its tensors and operators are unchanged.

    Args:
      content: A TFLite file.
      metadata: Names exactly the inputs of the file's signature, and vocabularies that are in it.

    Raises:
      DataError: It is no TFLite file, its inputs or vocabularies are not those named, or it has content
        outside its tables.
    """
    model = tflite_file.to_rewrite(content)
    given = {feature.name: feature.dtype for feature in metadata.inputs}
    found = _input_types(model)
    if given != found:
        raise DataError(
            f"Metadata must name the file's inputs and their types, {_listed(found)}; got {_listed(given)}."
        )
    _find_vocabularies(model, metadata.vocabularies)
    model = _with_entry(model, STANDARD_ENTRY, _standard(model, metadata))
    return tflite_file.write(_with_entry(model, ENTRY, _Entry.of(metadata).pack()))


def missing_values(metadata: ModelMetadata) -> dict[str, Any]:
    """Returns, for each input, the value that stands for a missing one as arrays hold it; None for none.

    'NaN' is what JSON has for it; texts are bytes.
    """
    found: dict[str, Any] = {}
    for feature in metadata.inputs:
        value: Any = feature.missing
        if value is not None and feature.dtype == "string":
            value = str(value).encode()
        elif value is not None:
            value = int(value) if feature.dtype.startswith("int") else float(value)
        found[feature.name] = value
    return found


def _listed(types: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({dtype})" for name, dtype in sorted(types.items()))


def read(content: bytes) -> ModelMetadata | None:
    """Returns our entry; None when there is none.

    Raises:
      DataError: It is no TFLite file, or the entry is damaged or of a newer tfx-mobile.
    """
    return of_model(tflite_file.read(content)[0])


def of_model(model: Table) -> ModelMetadata | None:
    """Returns our entry of a file that was read; see `read`."""
    raw = tflite_file.metadata(model).get(ENTRY)
    if raw is None:
        return None
    try:
        value = jsonable.loads(_unpacked(raw), where=f"The metadata entry {ENTRY!r}")
        if isinstance(value, dict) and value.get("schema_version") not in (None, SCHEMA_VERSION):
            raise DataError(
                f"The metadata entry {ENTRY!r} must be of schema {SCHEMA_VERSION}; got "
                f"{value['schema_version']!r}. Update tfx-mobile."
            )
        entry = _Entry.from_dict(value)
    except (ConfigError, zlib.error) as error:
        raise DataError(f"The metadata entry {ENTRY!r} must be what tfx-mobile wrote; {error}") from error
    standard = standard_of_model(model)
    if standard is None:
        raise DataError(f"The metadata entry {ENTRY!r} must stand beside {STANDARD_ENTRY!r}; there is none.")
    described = {tensor.name: tensor.description for tensor in standard.inputs}
    return ModelMetadata(
        name=standard.name,
        version=standard.version,
        inputs=tuple(
            Feature(
                name,
                dtype,
                unit := entry.units.get(name, ""),
                described.get(name, "").removesuffix(f"[{unit}]").rstrip(),
                entry.missing.get(name),
            )
            for name, dtype in _input_types(model).items()
        ),
        label=entry.label,
        description=standard.description,
        author=standard.author,
        license=standard.license,
        vocabularies=entry.vocabularies,
        gates=entry.gates,
        pipeline_run=entry.pipeline_run,
    )


def _unpacked(raw: bytes) -> bytes:
    return raw if raw.startswith(b"{") else zlib.decompressobj().decompress(raw, _MAX_JSON_BYTES)


def vocabularies(content: bytes, metadata: ModelMetadata) -> dict[str, tuple[bytes, ...]]:
    """Returns each vocabulary's strings, in the file's order, by feature.

    Raises:
      DataError: It is no TFLite file, or a vocabulary is not in it.
    """
    return _find_vocabularies(tflite_file.read(content)[0], metadata.vocabularies)


def _find_vocabularies(model: Table, wanted: Mapping[str, Vocabulary]) -> dict[str, tuple[bytes, ...]]:
    held: dict[str, bytes] = {}
    if wanted:
        for data in tflite_file.string_constants(model):
            held[hashlib.sha256(data).hexdigest()] = data
    found = {}
    for feature, vocabulary in wanted.items():
        if vocabulary.sha256 not in held:
            raise DataError(
                f"The vocabulary of {feature!r} must be in the file; none of its {len(held)} string "
                f"constants has the sha256 {vocabulary.sha256[:12]}."
            )
        found[feature] = unpack_strings(held[vocabulary.sha256])
    return found


def read_standard(content: bytes) -> StandardMetadata | None:
    """Returns the standard entry, whoever wrote it; None when there is none.

    Raises:
      DataError: It is no TFLite file, or the entry is damaged.
    """
    return standard_of_model(tflite_file.read(content)[0])


def standard_of_model(model: Table) -> StandardMetadata | None:
    """Returns the standard entry of a file that was read; see `read_standard`."""
    raw = tflite_file.metadata(model).get(STANDARD_ENTRY)
    if raw is None:
        return None
    if raw[4:8] != _STANDARD_IDENTIFIER:
        raise DataError(
            f"The metadata entry {STANDARD_ENTRY!r} must have M001 at byte 4; got {raw[4:8]!r}. "
            "It is damaged."
        )
    root, _ = flatbuffer.read(raw, _STANDARD_SCHEMA, "ModelMetadata")
    main = next(iter(root.get("subgraph_metadata", [])), Table("SubGraphMetadata"))
    tensors = {key: main.get(f"{key}_tensor_metadata", []) for key in ("input", "output")}
    owners = [root, main, *tensors["input"], *tensors["output"]]
    files = [file for owner in owners for file in owner.get("associated_files", [])]
    words = ("name", "description", "version", "author", "license", "min_parser_version")
    return StandardMetadata(
        **{word: _text(root, word) for word in words},
        inputs=tuple(map(_description, tensors["input"])),
        outputs=tuple(map(_description, tensors["output"])),
        associated_files=tuple(dict.fromkeys(_text(file, "name") for file in files)),
    )


def _text(table: Table, field: str) -> str:
    return tflite_file.text(table.get(field, b""))


def _description(tensor: Table) -> TensorDescription:
    return TensorDescription(_text(tensor, "name"), _text(tensor, "description"))


def _standard(model: Table, metadata: ModelMetadata) -> bytes:
    """Returns the standard entry: tensors in the order of the main subgraph."""
    features = {feature.name: feature for feature in metadata.inputs}
    inputs, outputs = (_signature(model, side) for side in ("inputs", "outputs"))
    main = model.get("subgraphs")[0]
    given = [features.get(inputs.get(i, "")) for i in main.get("inputs", np.empty(0)).tolist()]
    made = main.get("outputs", np.empty(0)).tolist()
    # one output is the label; several have their own names
    labels = [metadata.label] if len(made) == 1 else [Feature(outputs.get(i, ""), "") for i in made]
    subgraph = Table(
        "SubGraphMetadata",
        {
            "input_tensor_metadata": [_tensor(feature) for feature in given],
            "output_tensor_metadata": [_tensor(feature) for feature in labels],
        },
    )
    words = {
        "name": metadata.name,
        "description": metadata.description,
        "version": metadata.version,
        "author": metadata.author,
        "license": metadata.license,
        "min_parser_version": "1.0.0",  # no field used here is newer
    }
    root = Table("ModelMetadata", {"subgraph_metadata": [subgraph], **_encoded(words)})
    return flatbuffer.write(root, _STANDARD_SCHEMA, _STANDARD_IDENTIFIER)


def _tensor(feature: Feature | None) -> Table:
    if feature is None:
        return Table("TensorMetadata")
    unit = f"[{feature.unit}]" if feature.unit else ""
    description = " ".join(part for part in (feature.description, unit) if part)
    return Table("TensorMetadata", _encoded({"name": feature.name, "description": description}))


def _encoded(words: Mapping[str, str]) -> dict[str, bytes]:
    return {name: word.encode() for name, word in words.items() if word}


def _signature(model: Table, side: str) -> dict[int, str]:
    """Returns the names of the first signature's inputs or outputs by tensor index."""
    signatures = model.get("signature_defs", [])
    if not signatures or not model.get("subgraphs"):
        raise DataError("A file that gets metadata must have a signature; got none. Convert a SavedModel.")
    return {entry.get("tensor_index", 0): _text(entry, "name") for entry in signatures[0].get(side, [])}


def _input_types(model: Table) -> dict[str, str]:
    """Returns the types of the first signature's inputs by name, in the file's order."""
    names = _signature(model, "inputs")
    graph = model.get("signature_defs")[0].get("subgraph_index", 0)
    tensors = model.get("subgraphs")[graph].get("tensors", []) if graph < len(model.get("subgraphs")) else []
    if names and max(names) >= len(tensors):
        raise DataError(f"A signature must name tensors; got {max(names)} of {len(tensors)}. It is damaged.")
    return {name: tflite_file.type_name(tensors[i].get("type", 0)) for i, name in names.items()}


def _with_entry(model: Table, name: str, data: bytes) -> Table:
    """Returns the model with one metadata entry of this name."""
    entries = model.get("metadata", [])
    buffers = list(model.get("buffers", []))
    used = [
        tensor.get("buffer", 0) for graph in model.get("subgraphs") for tensor in graph.get("tensors", [])
    ]
    mine = [entry.get("buffer", 0) for entry in entries if _text(entry, "name") == name]
    others = [entry for entry in entries if _text(entry, "name") != name]
    free = set(mine) - {0, *used, *(entry.get("buffer", 0) for entry in others)}
    index = min(free, default=len(buffers))
    buffers[index : index + 1] = [Table("Buffer", {"data": np.frombuffer(data, np.uint8)})]
    entry = Table("Metadata", {"name": name.encode(), "buffer": index})
    place = next((i for i, old in enumerate(entries) if _text(old, "name") == name), len(entries))
    return model.replace(buffers=buffers, metadata=[*others[:place], entry, *others[place:]])


def pack_strings(values: Sequence[bytes]) -> bytes:
    """Returns strings as a TFLite constant holds them: how many, where each starts, the last's end, the text.

    Source: tensorflow/lite/string_util.h.
    """
    starts = np.cumsum([4 * (len(values) + 2), *map(len, values)])
    return np.array([len(values), *starts], "<i4").tobytes() + b"".join(values)


def unpack_strings(data: bytes) -> tuple[bytes, ...]:
    """Returns the strings of a constant; see `pack_strings`.

    Raises:
      DataError: The constant is damaged.
    """
    count = int.from_bytes(data[:4], "little")
    starts: Any = np.frombuffer(data[4 : 4 * (count + 2)], "<i4") if len(data) >= 4 * (count + 2) else None
    if starts is None or starts[-1] > len(data) or starts[0] < 0 or (np.diff(starts) < 0).any():
        raise DataError(f"A constant of strings must say where each is; got {len(data)} bytes that do not.")
    return tuple(
        data[start:end] for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
    )
