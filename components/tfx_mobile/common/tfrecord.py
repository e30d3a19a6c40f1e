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
import numpy as np
import numpy.typing as npt

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
    contents = list(records)
    checksums = _mask(np.fromiter(map(google_crc32c.value, contents), np.uint32, len(contents)))
    stored = checksums.astype("<u4").view("V4").tolist()
    headers = map(_header, map(len, contents))
    return b"".join(itertools.chain.from_iterable(zip(headers, contents, stored, strict=True)))


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
    window = _FEWEST_ALIKE
    while end - position >= _HEADER_BYTES:
        (length,) = _LENGTH.unpack_from(data, position)
        begin = position + _HEADER_BYTES
        header = data[position:begin]
        if header != _header(length):
            number = num_before + len(records)
            if number == 0:
                raise DataError(
                    f"Examples must be TFRecord files, plain or gzip; {path} is not. "
                    "Write it again, or take it out of the split."
                )
            raise _wrong_checksum("length", number, path)
        size = _HEADER_BYTES + length + _CHECKSUM.size
        if position + size > end:
            return records, position, size
        # Rows of dense features are of one length: if this header comes again where it then must, as many as
        # follow with it are taken at once.
        if length and data.startswith(header, position + _FEWEST_ALIKE * size):
            found, wrong = _alike(data, position, size, min(window, (end - position) // size))
            window *= 8
        else:
            record = data[begin : begin + length]
            found, window = [record], _FEWEST_ALIKE
            wrong = -1 if _CHECKSUM.unpack_from(data, begin + length)[0] == _masked_crc(record) else 0
        if wrong >= 0:
            raise _wrong_checksum("content", num_before + len(records) + wrong, path)
        records += found
        position += size * len(found)
    return records, position, _HEADER_BYTES


def _alike(data: bytes, position: int, size: int, most: int) -> tuple[list[bytes], int]:
    """Returns the records from a position on that have the first one's header, and which is wrong, or -1.

    Args:
      data: A piece of a file.
      position: Where a record with a right header begins.
      size: Its length with header and checksum.
      most: How many to look at; that many fit into data.
    """
    framed = np.frombuffer(data, np.uint8, most * size, position).reshape(most, size)
    has_header = (framed[:, :_HEADER_BYTES] == framed[0, :_HEADER_BYTES]).all(axis=1)
    framed = framed[: most if has_header.all() else int(has_header.argmin())]
    stop = size - _CHECKSUM.size
    begins = range(position, position + size * len(framed), size)
    records = [data[begin + _HEADER_BYTES : begin + stop] for begin in begins]
    crc = np.fromiter(map(google_crc32c.value, records), np.uint32, len(records))
    stored = np.ascontiguousarray(framed[:, stop:]).view("<u4").ravel()
    is_wrong = stored != _mask(crc)
    return records, int(is_wrong.argmax()) if is_wrong.any() else -1


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


def _mask(crc: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """As _masked_crc, of many checksums."""
    return (crc >> np.uint32(15) | crc << np.uint32(17)) + np.uint32(0xA282EAD8)


_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_HEADER_BYTES = _LENGTH.size + _CHECKSUM.size
FRAME_BYTES = _HEADER_BYTES + _CHECKSUM.size  # of a record, besides its content
_GZIP = zlib.MAX_WBITS | 16
_GZIP_MAGIC = b"\x1f\x8b"
_MAX_INFLATED_BYTES = 4 << 20
_FEWEST_ALIKE = 8  # records; looking at so few at once costs no more than one by one
