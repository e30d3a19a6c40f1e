"""Makes a file from one that is there and a delta in the BSDIFF40 format, within what was promised of it.

A delta is unpacked only as far as the signed length of the new file allows, so one that promises or holds
gigabytes costs nothing. Whether the result is the signed file is for the caller to check, by its sha256.
Does not read or write, and does not make deltas.
Source: Percival, "Naive Differences of Executable Code" (2003), and the file format of bsdiff 4.
"""

import bz2
import struct

import bsdiff4  # type: ignore[import-untyped]

from tfx_mobile.common.errors import RegistryError

_HEADER = struct.Struct("<8sQQQ")  # the highest bit is a sign; what it makes negative is too large here
_MAGIC = b"BSDIFF40"
_STEP_BYTES = 24  # three numbers
_COVERED_BYTES = 8  # bsdiff makes no step for less


def patched(base: bytes, delta: bytes, *, size_bytes: int) -> bytes:
    """Returns the new file.

    Args:
      base: The file that the delta starts from.
      delta: In the BSDIFF40 format.
      size_bytes: Of the new file, as it was signed.

    Raises:
      RegistryError: The delta is none, or not from this base to a file of this size.
    """
    if len(delta) < _HEADER.size or not delta.startswith(_MAGIC):
        raise RegistryError("Delta must be in the BSDIFF40 format; it is not.")
    control_bytes, diff_bytes, new_bytes = _HEADER.unpack_from(delta)[1:]
    if new_bytes != size_bytes:
        raise RegistryError(f"Delta must make the {size_bytes} bytes that were signed; it makes {new_bytes}.")
    body = delta[_HEADER.size :]
    if control_bytes + diff_bytes > len(body):
        raise RegistryError("Delta must be as long as its header says; it is shorter.")
    blocks = (
        (body[:control_bytes], _STEP_BYTES * (size_bytes // _COVERED_BYTES + 2)),
        (body[control_bytes : control_bytes + diff_bytes], size_bytes),
        (body[control_bytes + diff_bytes :], size_bytes),
    )
    for packed, most in blocks:
        _check_unpacked(packed, most)
    try:
        made: bytes = bsdiff4.patch(base, delta)
    except (ValueError, OSError, MemoryError) as error:
        raise RegistryError(f"Delta must fit the file that it starts from; {error}.") from error
    return made


def _check_unpacked(packed: bytes, most: int) -> None:
    """Unpacks without keeping, to know that it is no more than `most` bytes."""
    unpacker, found, given = bz2.BZ2Decompressor(), 0, packed
    try:
        while not unpacker.eof:
            if unpacker.needs_input and not given:
                raise RegistryError("Delta must be whole; a part of it is cut off.")
            found += len(unpacker.decompress(given, 1 << 20))
            given = b""
            if found > most:
                raise RegistryError(f"Delta must unpack to {most} bytes at most; it goes on.")
    except OSError as error:
        raise RegistryError(f"Delta must be packed with bzip2; {error}.") from error
    if unpacker.unused_data:
        raise RegistryError("Delta must end where its parts end; more follows.")
