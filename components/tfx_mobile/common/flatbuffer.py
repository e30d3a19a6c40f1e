"""Flatbuffers by a description of their tables: read byte range by byte range, and written compactly.

Generated readers trust a file and hide where its bytes are. This one checks every offset, so that a damaged
or hostile file ends in one DataError, and says of every range of bytes which part of the content it holds.
The writer stores equal parts once, which makes a file smaller. Knows no TFLite: see tflite_file.py.

Source: FlatBuffers' internals (https://flatbuffers.dev/internals): tables, vtables, vectors, strings.
"""

import dataclasses
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tfx_mobile.common.errors import DataError

Path = tuple[str | int, ...]
_FORMATS = {
    "bool": "?", "byte": "b", "ubyte": "B", "short": "h", "ushort": "H", "int": "i", "uint": "I",
    "long": "q", "ulong": "Q", "float": "f",
}  # fmt: skip
_FIELD = re.compile(r"(\w+):(\[?)([\w]+)\]?(?:@(\d+))?(?:=(-?\d+))?")
_LARGE_ALIGN, _LARGE_BYTES = 16, 68
_MAX_SHARING = 8  # how much larger than its bytes a file may become when what it shares is told apart


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a table, or one slot that is no longer used.

    Attributes:
      name: As in the schema; '_' for a slot no longer used.
      type: A scalar's name, 'string', a table's or a union's name.
      is_vector: Whether there are many of them.
      align: Of a vector's first element, bytes.
      default: Of a scalar that is not stored.
    """

    name: str
    type: str
    is_vector: bool
    align: int
    default: int

    @property
    def is_scalar(self) -> bool:
        """Whether the value lies in the table itself."""
        return self.type in _FORMATS and not self.is_vector


class Schema:
    """Tables and unions by name.

    Args:
      text: One table a line: its name, then `field:type` in the order of slots; `[type]` is a vector,
        `@16` aligns its elements, `=1` is a scalar's default.
      unions: Table names by type code. The code is in the field before; a table that the text does not
        describe has scalars only.
    """

    def __init__(self, text: str, unions: Mapping[str, Sequence[str]]) -> None:
        self.tables: dict[str, tuple[Field, ...]] = {}
        self.unions = unions
        for line in text.strip().splitlines():
            name, *fields = line.split()
            self.tables[name] = tuple(map(_field, fields))


def _field(text: str) -> Field:
    matched = _FIELD.fullmatch(text)
    if matched is None:
        raise ValueError(f"A field must be name:type; got {text!r}.")
    name, many, kind, align, default = matched.groups()
    return Field(name, kind, bool(many), int(align or 1), int(default or 0))


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """One table's values; what is not stored is not in `fields`.

    Attributes:
      type: Its name in the schema.
      fields: int or float, bytes (a string), an array (a vector of scalars), a Table, or a list of these.
      inline: The scalars of a table that the schema does not describe, as they were stored.
      vtable: Where they are in it.
      phase: Position of the table modulo 8, which keeps them aligned.
      is_newer: Whether it has fields that the schema does not know.
      weight: Values in it and all below it, the shared ones counted each time.
    """

    type: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    inline: bytes = b""
    vtable: bytes = b""
    phase: int = 0
    is_newer: bool = False
    weight: int = 1

    def get(self, name: str, default: Any = None) -> Any:
        """Returns a field's value, or the default when the file does not store it."""
        return self.fields.get(name, default)

    def replace(self, **fields: Any) -> "Table":
        """Returns the table with other values; None removes one."""
        changed = {name: value for name, value in {**self.fields, **fields}.items() if value is not None}
        return dataclasses.replace(self, fields=changed)


class Claim(NamedTuple):
    """A range of bytes and what it holds.

    Attributes:
      start: First byte.
      end: One past the last.
      path: From the root, field names and positions in vectors.
      role: 'header', 'table', 'vtable', 'prefix' (of an aligned vector), 'vector' or 'string'.
    """

    start: int
    end: int
    path: Path
    role: str


def read(content: bytes, schema: Schema, root: str, *, header_bytes: int = 8) -> tuple[Table, list[Claim]]:
    """Reads a flatbuffer.

    Args:
      content: Starts with the offset of the root and, where it has one, an identifier that the caller checks.
      schema: Describes the tables.
      root: Name of the root's table.
      header_bytes: 8 with an identifier, 4 without.

    Returns:
      The root, and every range of bytes that belongs to it, in the order of the schema.

    Raises:
      DataError: An offset leads out of the file, or its parts overlap or repeat without end.
    """
    reader = _Reader(content, schema)
    table = reader.read(root, header_bytes)
    if table.weight > _MAX_SHARING * len(content) + 4096:
        raise DataError(
            f"A flatbuffer of {len(content)} bytes must not repeat its parts without end; got "
            f"{table.weight} values."
        )
    return table, reader.claims


class _Reader:
    def __init__(self, content: bytes, schema: Schema) -> None:
        self._content, self._schema = content, schema
        self._known: dict[tuple[str, int], Any] = {}
        self._num_claimed = 0
        self.claims: list[Claim] = []

    def read(self, root: str, header_bytes: int) -> Table:
        start = self._follow(0, (root,))
        self._claim(0, header_bytes, (), "header")
        return self._table(start, root, ())

    def _take(self, start: int, size: int, path: Path) -> bytes:
        if start < 0 or start + size > len(self._content):
            raise DataError(
                f"A flatbuffer must hold all it points to; {'.'.join(map(str, path))} is at bytes {start} to "
                f"{start + size} of {len(self._content)}. The file is cut or damaged."
            )
        return self._content[start : start + size]

    def _number(self, kind: str, start: int, path: Path) -> Any:
        form = "<" + kind
        return struct.unpack(form, self._take(start, struct.calcsize(form), path))[0]

    def _follow(self, start: int, path: Path) -> int:
        return start + int(self._number("I", start, path))

    def _claim(self, start: int, end: int, path: Path, role: str) -> None:
        self._num_claimed += end - start
        if self._num_claimed > len(self._content):
            raise DataError(
                f"The parts of a flatbuffer must not overlap; those up to {'.'.join(map(str, path))} have "
                f"{self._num_claimed} bytes, and the file {len(self._content)}. The file is damaged."
            )
        self.claims.append(Claim(start, end, path, role))

    def _table(self, start: int, kind: str, path: Path) -> Table:
        if (kind, start) in self._known:
            return self._known[kind, start]  # type: ignore[no-any-return]
        at = start - int(self._number("i", start, path))
        num_bytes, size = (int(self._number("H", at + i, path)) for i in (0, 2))
        slots = np.frombuffer(self._take(at, num_bytes, path)[4:], "<u2", max(0, num_bytes - 4) // 2).tolist()
        inline = self._take(start, max(size, 4), path)
        if max(slots, default=0) >= max(size, 1):
            raise DataError(
                f"A field must lie in its table; {'.'.join(map(str, path))} has {size} bytes and a field "
                f"at {max(slots)}. The file is damaged."
            )
        self._claim(start, start + len(inline), path, "table")
        if ("vtable", at) not in self._known:
            self._known["vtable", at] = at
            self._claim(at, at + max(num_bytes, 4), path, "vtable")
        if kind not in self._schema.tables:
            found = Table(kind, {}, inline[4:], struct.pack(f"<{len(slots)}H", *slots), start % 8)
        else:
            found = self._described(start, kind, slots, path)
        self._known[kind, start] = found
        return found

    def _described(self, start: int, kind: str, slots: list[int], path: Path) -> Table:
        description = self._schema.tables[kind]
        fields: dict[str, Any] = {}
        weight, code = 1, 0
        for field, slot in zip(description, slots, strict=False):
            if not slot or field.name == "_":
                code = 0
                continue
            here = (*path, field.name)
            if field.is_scalar:
                code = fields[field.name] = self._number(_FORMATS[field.type], start + slot, here)
                weight += 1
                continue
            if field.type in self._schema.unions:
                names = self._schema.unions[field.type]
                if code:
                    name = names[code] if code < len(names) else f"{field.type} {code}"
                    fields[field.name] = self._table(self._follow(start + slot, here), name, here)
                    weight += fields[field.name].weight
                continue
            value, more = self._value(self._follow(start + slot, here), field, here)
            fields[field.name] = value
            weight += more
        newer = any(slots[len(description) :])
        return Table(kind, fields, is_newer=newer, weight=weight)

    def _value(self, start: int, field: Field, path: Path) -> tuple[Any, int]:
        if not field.is_vector:
            if field.type != "string":
                table = self._table(start, field.type, path)
                return table, table.weight
            text = self._string(start, path)
            return text, 1 + len(text)
        key = f"[{field.type}]", start
        if key in self._known:
            return self._known[key]  # type: ignore[no-any-return]
        count = int(self._number("I", start, path))
        if field.type in _FORMATS:
            dtype = np.dtype("<" + _FORMATS[field.type])
            data = self._take(start + 4, count * dtype.itemsize, path)
            if field.align > 1:
                self._claim(start, start + 4, path, "prefix")
                self._claim(start + 4, start + 4 + len(data), path, "vector")
            else:
                self._claim(start, start + 4 + len(data), path, "vector")
            found: tuple[Any, int] = np.frombuffer(data, dtype), 1 if field.align > 1 else 1 + count
        else:
            self._take(start + 4, count * 4, path)
            self._claim(start, start + 4 + 4 * count, path, "vector")
            one = dataclasses.replace(field, is_vector=False)
            entries = []
            for i in range(count):
                here = (*path, i)
                entries.append(self._value(self._follow(start + 4 + 4 * i, here), one, here))
            found = [value for value, _ in entries], 1 + sum(weight for _, weight in entries)
        self._known[key] = found
        return found

    def _string(self, start: int, path: Path) -> bytes:
        if ("string", start) not in self._known:
            size = int(self._number("I", start, path))
            text = self._take(start + 4, size + 1, path)[:-1]
            self._claim(start, start + 4 + size + 1, path, "string")
            self._known["string", start] = text
        return self._known["string", start]  # type: ignore[no-any-return]


def write(root: Table, schema: Schema, identifier: bytes) -> bytes:
    """Returns the flatbuffer of a table, equal parts stored once; the same values give the same bytes.

    Args:
      root: The root's values. A scalar that has its default is not stored.
      schema: Describes the tables.
      identifier: Four bytes.

    Raises:
      DataError: A table has fields that the schema does not know.
    """
    writer = _Writer(schema)
    writer.add(root)
    return writer.layout(identifier)


class _Part(NamedTuple):
    """Bytes with holes for the offsets of other parts.

    Attributes:
      kind: A table's type, 'string', or a vector's element in brackets.
      data: The bytes, 0 in the holes.
      holes: Position of each hole and number of the part that it points to.
      vtable: Of a table; empty for others.
      align: The byte at `lead` is aligned to this.
      lead: See `align`.
    """

    kind: str
    data: bytes
    holes: tuple[tuple[int, int], ...]
    vtable: bytes
    align: int
    lead: int


class _Writer:
    """Parts are numbered children first: a part's number is higher than those it points to."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._numbers: dict[_Part, int] = {}
        self._parts: list[_Part] = []
        self._tables: dict[int, tuple[Table, int]] = {}  # keeps the tables alive, so that ids stay theirs

    def add(self, table: Table) -> int:
        """Returns the number of the table's part."""
        if id(table) not in self._tables:
            self._tables[id(table)] = table, self._keep(self._table(table))
        return self._tables[id(table)][1]

    def _keep(self, part: _Part) -> int:
        if part not in self._numbers:
            self._numbers[part] = len(self._parts)
            self._parts.append(part)
        return self._numbers[part]

    def _table(self, table: Table) -> _Part:
        if table.is_newer:
            raise DataError(
                f"A table to write must have known fields only; {table.type!r} has newer ones. "
                "Update tfx-mobile."
            )
        if table.type not in self._schema.tables:
            vtable = struct.pack("<2H", 4 + len(table.vtable), 4 + len(table.inline)) + table.vtable
            return _Part(table.type, bytes(4) + table.inline, (), vtable, 8, (8 - table.phase) % 8)
        description = self._schema.tables[table.type]
        stored: list[tuple[int, int, bytes, int | None]] = []  # minus size, slot, bytes, part
        for slot, field in enumerate(description):
            value = table.get(field.name)
            if value is None or (field.is_scalar and value == field.default):
                continue
            if field.is_scalar:
                data = struct.pack("<" + _FORMATS[field.type], value)
                stored.append((-len(data), slot, data, None))
            else:
                stored.append((-4, slot, bytes(4), self._value(value, field)))
        stored.sort(key=lambda entry: entry[:2])
        slots = [0] * (1 + max((slot for _, slot, _, _ in stored), default=-1))
        inline, holes = bytearray(4), []
        for _, slot, raw, number in stored:
            slots[slot] = len(inline)
            if number is not None:
                holes.append((len(inline), number))
            inline += raw
        vtable = struct.pack(f"<{2 + len(slots)}H", 4 + 2 * len(slots), len(inline), *slots)
        wide = bool(stored) and stored[0][0] == -8
        return _Part(table.type, bytes(inline), tuple(holes), vtable, 8 if wide else 4, 4 if wide else 0)

    def _value(self, value: Any, field: Field) -> int:
        if isinstance(value, Table):
            return self.add(value)
        if isinstance(value, bytes):
            return self._keep(_Part("string", struct.pack("<I", len(value)) + value + b"\0", (), b"", 4, 0))
        kind = f"[{field.type}]"
        if isinstance(value, list):
            # the last first: it has the lower number, and is laid out behind
            numbers = [self._value(entry, field) for entry in reversed(value)][::-1]
            data = struct.pack("<I", len(value)) + bytes(4 * len(value))
            holes = tuple((4 + 4 * i, number) for i, number in enumerate(numbers))
            return self._keep(_Part(kind, data, holes, b"", 4, 0))
        array: npt.NDArray[Any] = np.ascontiguousarray(value, "<" + _FORMATS[field.type])
        align = max(4, array.itemsize, field.align)
        return self._keep(_Part(kind, struct.pack("<I", len(array)) + array.tobytes(), (), b"", align, 4))

    def _rank(self, number: int) -> tuple[int, int]:
        part = self._parts[number]
        large = part.align >= _LARGE_ALIGN and len(part.data) >= _LARGE_BYTES
        return (len(part.data) if large else 0), -number

    def layout(self, identifier: bytes) -> bytes:
        """Puts each part behind all that point to it, near its parent; large constants last, by size.

        Of the orders tried on converters' and strangers' files this one compresses best: parts of the same
        shape point to their children at the same distances.
        """
        order = sorted(range(len(self._parts)), key=self._rank)
        content = bytearray(8)
        vtables: dict[bytes, int] = {}
        for vtable in (self._parts[number].vtable for number in order):
            if vtable and vtable not in vtables:
                vtables[vtable] = len(content)
                content += vtable
        starts = [0] * len(self._parts)
        for number in order:
            part = self._parts[number]
            content += bytes(-(len(content) + part.lead) % part.align)
            starts[number] = len(content)
            content += part.data
        for part, start in zip(self._parts, starts, strict=True):
            if part.vtable:
                struct.pack_into("<i", content, start, start - vtables[part.vtable])
            for at, child in part.holes:
                struct.pack_into("<I", content, start + at, starts[child] - start - at)
        struct.pack_into("<I4s", content, 0, starts[-1], identifier)
        return bytes(content)
