"""TFRecord files as streams of bytes: blocks in, records out, and back. Does not open files.

A record is its length (8 bytes), the length's checksum (4), the content, the content's checksum (4), all
little-endian; a checksum is a CRC-32C, rotated and shifted. The Python work for a record is a slice and two
comparisons; checksums and compression run in C.

Source: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

import functools
import itertools
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import google_crc32c

from tfx_mobile.common.errors import DataError


def unpack(blocks: Iterable[bytes], path: str) -> Iterator[list[bytes]]:
    """Yields the records of a TFRecord file, those of one block after those of the block before.

    Args:
      blocks: The file's bytes, in pieces of any size; plain or gzip, which the first bytes tell.
      path: For messages.

    Yields:
      The records that a block completes, at least one; at most a block and a record are in memory.

    Raises:
      DataError: The file is cut off, a checksum does not match, or it is not a TFRecord file at all.
    """
    parts: list[bytes] = []
    held_bytes, wanted_bytes = 0, _HEADER_BYTES
    num_records = 0
    for block in _inflate(iter(blocks), path):
        parts.append(block)
        held_bytes += len(block)
        if held_bytes < wanted_bytes:
            continue
        data = b"".join(parts)
        records, position, wanted_bytes = _split(data, num_records, path)
        parts, held_bytes = [data[position:]], len(data) - position
        num_records += len(records)
        if records:
            yield records
    if held_bytes:
        raise DataError(
            f"A TFRecord file must end after a whole record; {path} ends inside record {num_records}. "
            "Write the file again."
        )


def pack(records: Iterable[bytes]) -> bytes:
    """Returns records as the bytes of a TFRecord file; those of several calls can follow each other."""
    parts: list[bytes] = []
    for record in records:
        parts += _header(len(record)), record, _CHECKSUM.pack(_masked_crc(record))
    return b"".join(parts)


class GzipWriter:
    """Writes a gzip stream; the same content gives the same bytes.

    Args:
      stream: Takes the compressed bytes; closed with this.
    """

    # The floats in examples hardly compress. 6, zlib's default, takes 1.2 times as long as 1 on vectors and
    # 4 times on scalars, for files that are 1 % and 8 % smaller.
    LEVEL = 1

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._encoder = zlib.compressobj(self.LEVEL, wbits=_GZIP)

    def write(self, content: bytes) -> None:
        """Compresses and writes."""
        self._stream.write(self._encoder.compress(content))

    def close(self) -> None:
        """Writes what is left, so that also an empty file is a valid one."""
        self._stream.write(self._encoder.flush())
        self._stream.close()


def _split(data: bytes, num_before: int, path: str) -> tuple[list[bytes], int, int]:
    """Returns the whole records in data, where the rest begins, and how long it must get to be a record."""
    records: list[bytes] = []
    position, end = 0, len(data)
    while end - position >= _HEADER_BYTES:
        (length,) = _LENGTH.unpack_from(data, position)
        begin = position + _HEADER_BYTES
        if data[position:begin] != _header(length):
            number = num_before + len(records)
            if number == 0:
                raise DataError(
                    f"Examples must be TFRecord files, plain or gzip; {path} is not. "
                    "Write it again, or take it out of the split."
                )
            raise _wrong_checksum("length", number, path)
        stop = begin + length
        if stop + _CHECKSUM.size > end:
            return records, position, _HEADER_BYTES + length + _CHECKSUM.size
        record = data[begin:stop]
        if _CHECKSUM.unpack_from(data, stop)[0] != _masked_crc(record):
            raise _wrong_checksum("content", num_before + len(records), path)
        records.append(record)
        position = stop + _CHECKSUM.size
    return records, position, _HEADER_BYTES


def _wrong_checksum(what: str, number: int, path: str) -> DataError:
    return DataError(
        f"Records must match their checksums; the {what} of record {number} of {path} does not. "
        "Write the file again."
    )


def _inflate(blocks: Iterator[bytes], path: str) -> Iterator[bytes]:
    """Yields a plain file's blocks as they are, those of a gzip file decompressed, in bounded pieces."""
    head = b""
    for block in blocks:
        head += block
        if len(head) >= _HEADER_BYTES:
            break
    blocks = itertools.chain([head], blocks)
    # A plain file may begin with gzip's magic number too, as a length; only then is its checksum right.
    is_plain = len(head) >= _HEADER_BYTES and head.startswith(_header(*_LENGTH.unpack_from(head)))
    if is_plain or not head.startswith(_GZIP_MAGIC):
        yield from blocks
        return
    decoder = zlib.decompressobj(_GZIP)
    try:
        for block in blocks:
            rest = block
            while rest:
                if decoder.eof:  # files may be joined, and padded with zeros
                    rest = rest.lstrip(b"\0")
                    if not rest:
                        break
                    decoder = zlib.decompressobj(_GZIP)
                yield decoder.decompress(rest, _MAX_INFLATED_BYTES)
                rest = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
        while not decoder.eof and (piece := decoder.decompress(b"", _MAX_INFLATED_BYTES)):
            yield piece
    except zlib.error as error:
        raise DataError(f"A gzip file must be intact; {path} is not: {error}. Write it again.") from error
    if not decoder.eof:
        raise DataError(f"A gzip file must be whole; {path} is cut off. Write it again.")


@functools.lru_cache(maxsize=1 << 16)
def _header(length: int) -> bytes:
    content = _LENGTH.pack(length)
    return content + _CHECKSUM.pack(_masked_crc(content))


def _masked_crc(content: bytes) -> int:
    crc: int = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_HEADER_BYTES = _LENGTH.size + _CHECKSUM.size
_GZIP = zlib.MAX_WBITS | 16
_GZIP_MAGIC = b"\x1f\x8b"
_MAX_INFLATED_BYTES = 4 << 20
