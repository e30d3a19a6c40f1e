"""Hashes of rows by their content, for samples that do not depend on files, shards, batches or order.

64 bits: for choosing and looking up rows, not against somebody who makes up rows that collide.
"""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Hashes = npt.NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # the step of SplitMix64


def row_hashes(batch: pa.RecordBatch, seed: int) -> Hashes:
    """Returns a hash of each row, which depends on its features' names and values and the seed alone.

    Not on the order of the features, nor on whether one without values is empty, missing or not in the batch
    at all. Values are alike if their bits are: 0.0 and -0.0 are two. Multilinear hashing with multipliers
    drawn for each feature and position (Lemire and Kaser 2014), then mixed.

    Args:
      batch: Columns of lists of numbers or of bytes, as tfx_bsl decodes tf.Examples.
      seed: At least 0.

    Returns:
      Shape (rows,).
    """
    total = np.full(batch.num_rows, _digest(str(seed).encode()), np.uint64)
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if not pa.types.is_null(column.type):
            total += _list_hashes(column, _digest(f"{seed}:{name}".encode()))
    return mix(total)


def _list_hashes(column: pa.Array, salt: np.uint64) -> Hashes:
    """Returns a sum for each row; 0 for one without values."""
    values = _bits(column.flatten())
    if column.null_count:
        lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    else:
        lengths = np.diff(column.offsets.to_numpy())  # a third of the time
    longest = int(lengths.max(initial=0))
    if not longest:
        return np.zeros(len(lengths), np.uint64)
    draws = mix(salt + np.arange(2 * longest + 2, dtype=np.uint64) * _GOLDEN)
    multipliers, of_lengths = draws[:-2:2] | np.uint64(1), draws[1::2]
    if len(values) == longest * len(lengths):
        sums: Hashes = values.reshape(-1, longest) @ multipliers
        sums += of_lengths[-1]
        return sums
    ends = np.cumsum(lengths)
    begins = ends - lengths
    running = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * multipliers[np.arange(len(values)) - np.repeat(begins, lengths)], out=running[1:])
    of_lengths[0] = 0
    ragged: Hashes = running[ends] - running[begins] + of_lengths[lengths]
    return ragged


def mix(values: Hashes) -> Hashes:
    """Returns values of which every bit depends on all bits: SplitMix64's finaliser (Steele et al. 2014).

    Args:
      values: uint64, of any shape.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _bits(flat: pa.Array) -> Hashes:
    """Returns the bits of each value; products keep the zeros at the end of short numbers, so fill them."""
    if pa.types.is_floating(flat.type):
        short = _numbers(flat, np.float32).view(np.uint32)
        return np.asarray(short ^ (short >> np.uint32(16)), np.uint64)
    if pa.types.is_integer(flat.type):
        long = _numbers(flat, np.int64).view(np.uint64)
        return np.asarray(long ^ (long >> np.uint64(32)), np.uint64)
    encoded = flat.dictionary_encode()  # a text that comes a thousand times is hashed once
    digests = np.fromiter(map(_digest, encoded.dictionary.to_pylist()), np.uint64, len(encoded.dictionary))
    return np.asarray(digests[encoded.indices.to_numpy(zero_copy_only=False)], np.uint64)


def _numbers(flat: pa.Array, dtype: Any) -> npt.NDArray[Any]:
    return np.asarray(flat.to_numpy(zero_copy_only=False), dtype)


def _digest(content: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little"))
