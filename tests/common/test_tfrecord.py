"""The framing of TFRecords: bytes in any pieces, files that are not whole, gzip in all its forms."""

import gzip
import io
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfx_mobile.common import tfrecord
from tfx_mobile.common.errors import DataError

# tf.io.TFRecordWriter's bytes of the records b"" and b"tfx".
EMPTY = bytes.fromhex("0000000000000000 29039807 d8ea82a2")
TFX = bytes.fromhex("0300000000000000 b099490e 746678 2e5f2696")

RECORDS = st.lists(st.binary(max_size=300), max_size=20)


def cut(content: bytes, size: int) -> Iterator[bytes]:
    for begin in range(0, len(content), size):
        yield content[begin : begin + size]


def unpack(content: bytes, size: int = 1 << 20) -> list[bytes]:
    return [record for part in tfrecord.unpack(cut(content, size), "rows.gz") for record in part]


class Kept(io.BytesIO):
    """Keeps what was written when it is closed."""

    content = b""

    def close(self) -> None:
        self.content = self.content or self.getvalue()
        super().close()


def zipped(content: bytes) -> bytes:
    stream = Kept()
    writer = tfrecord.GzipWriter(stream)
    writer.write(content)
    writer.close()
    assert stream.closed
    return stream.content


def test_records_by_hand() -> None:
    assert tfrecord.pack([b"", b"tfx"]) == EMPTY + TFX
    assert unpack(EMPTY + TFX + EMPTY) == [b"", b"tfx", b""]


@given(records=RECORDS, size=st.integers(1, 700), is_zipped=st.booleans())
def test_what_is_packed_comes_back_in_order_whatever_the_blocks(
    records: list[bytes], size: int, is_zipped: bool
) -> None:
    content = tfrecord.pack(records)
    assert unpack(zipped(content) if is_zipped else content, size) == records


RUNS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 90)), max_size=6)


@given(runs=RUNS, size=st.integers(1, 3000))
def test_runs_of_records_of_one_length_come_back_in_order(runs: list[tuple[int, int]], size: int) -> None:
    lengths = [length for length, times in runs for _ in range(times)]
    records = [bytes((i + k) % 256 for k in range(length)) for i, length in enumerate(lengths)]
    assert unpack(tfrecord.pack(records), size) == records


@pytest.mark.parametrize("wrong", [0, 1, 7, 8, 9, 71, 72, 198, 199])
@pytest.mark.parametrize(("place", "what"), [(0, "length"), (20, "content"), (-1, "content")])
def test_a_wrong_byte_in_a_run_of_records_of_one_length_is_found_where_it_is(
    wrong: int, place: int, what: str
) -> None:
    content = bytearray(tfrecord.pack([bytes([i]) * 30 for i in range(200)]))
    size = len(content) // 200
    content[wrong * size + place % size] ^= 1
    message = f"Records must match their checksums; the {what} of record {wrong} of rows.gz does not."
    if wrong == 0 and what == "length":
        message = "Examples must be TFRecord files, plain or gzip; rows.gz is not."
    with pytest.raises(DataError, match=re.escape(message)):
        unpack(bytes(content))


@given(first=RECORDS, second=RECORDS)
def test_packed_pieces_follow_each_other(first: list[bytes], second: list[bytes]) -> None:
    assert tfrecord.pack(first) + tfrecord.pack(second) == tfrecord.pack(first + second)


@given(records=RECORDS.filter(bool), data=st.data())
def test_a_file_that_is_cut_off_is_refused(records: list[bytes], data: st.DataObject) -> None:
    content = tfrecord.pack(records)
    ends = {len(tfrecord.pack(records[:i])) for i in range(len(records) + 1)}
    end = data.draw(st.integers(1, len(content) - 1).filter(lambda end: end not in ends))
    with pytest.raises(DataError, match=r"rows.gz ends inside record \d+\."):
        unpack(content[:end], data.draw(st.integers(1, 700)))


@given(records=RECORDS.filter(bool), data=st.data())
def test_one_wrong_bit_anywhere_is_refused(records: list[bytes], data: st.DataObject) -> None:
    content = bytearray(tfrecord.pack(records))
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DataError, match=r"rows\.gz"):
        unpack(bytes(content))


def test_blocks_are_given_on_as_they_come() -> None:
    seen = 0

    def blocks() -> Iterator[bytes]:
        nonlocal seen
        for _ in range(10):
            seen += 1
            yield TFX * 5

    for number, part in enumerate(tfrecord.unpack(blocks(), "rows"), 1):
        assert part == [b"tfx"] * 5
        assert seen == number


def test_a_record_larger_than_many_blocks_is_put_together() -> None:
    records = [b"a", bytes(range(256)) * 40_000, b"", b"b"]  # 10 MB
    content = tfrecord.pack(records)
    assert unpack(content, 4096) == records
    assert unpack(zipped(content), 4096) == records


def test_an_inflated_block_is_bounded_however_well_it_was_compressed() -> None:
    content = tfrecord.pack([bytes(1 << 20)] * 64)
    packed = zipped(content)
    assert len(packed) < 1 << 20
    sizes = [sum(map(len, part)) for part in tfrecord.unpack([packed], "rows.gz")]
    assert sum(sizes) == 64 << 20
    assert max(sizes) <= 5 << 20


@pytest.mark.parametrize("content", [b"", gzip.compress(b"", mtime=0), zipped(b"")])
def test_an_empty_file_has_no_records(content: bytes) -> None:
    assert unpack(content) == []


def test_gzip_files_may_be_joined_and_padded() -> None:
    assert unpack(zipped(TFX) + bytes(512) + zipped(EMPTY + TFX) + bytes(3), 7) == [b"tfx", b"", b"tfx"]


def test_gzip_is_read_by_the_standard_library_and_does_not_depend_on_time() -> None:
    assert gzip.decompress(zipped(TFX)) == TFX
    assert zipped(TFX)[4:8] == bytes(4)


def test_a_plain_file_may_begin_like_gzip() -> None:
    records = [bytes(0x8B1F), b"tfx"]
    content = tfrecord.pack(records)
    assert content.startswith(b"\x1f\x8b")
    assert unpack(content) == records


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"name,miles\nFlash,1.5\n",
            "Examples must be TFRecord files, plain or gzip; rows.gz is not. "
            "Write it again, or take it out of the split.",
        ),
        (
            gzip.compress(b"name,miles\nFlash,1.5\n", mtime=0),
            "Examples must be TFRecord files, plain or gzip; rows.gz is not.",
        ),
        (
            TFX + b"\1" + TFX[1:],
            "Records must match their checksums; the length of record 1 of rows.gz does not. "
            "Write the file again.",
        ),
        (
            TFX + TFX.replace(b"tfx", b"tfy"),
            "Records must match their checksums; the content of record 1 of rows.gz does not. "
            "Write the file again.",
        ),
        (
            TFX + EMPTY + TFX[:-1],
            "A TFRecord file must end after a whole record; rows.gz ends inside record 2. "
            "Write the file again.",
        ),
        (gzip.compress(TFX, mtime=0)[:-1], "A gzip file must be whole; rows.gz is cut off. Write it again."),
        (gzip.compress(TFX, mtime=0)[:14], "A gzip file must be whole; rows.gz is cut off. Write it again."),
        (
            gzip.compress(TFX, mtime=0)[:-8] + bytes(8),
            "A gzip file must be intact; rows.gz is not: Error -3 while decompressing data: "
            "incorrect data check. Write it again.",
        ),
        (gzip.compress(TFX, mtime=0) + b"more", "A gzip file must be intact; rows.gz is not: Error -3"),
    ],
)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_what_is_wrong_is_said_with_the_file(content: bytes, message: str, size: int) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        unpack(content, size)
