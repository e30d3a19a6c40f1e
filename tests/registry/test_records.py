"""Records of versions and channels."""

import enum
import json
import re
from typing import Any

import pytest

from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry import records


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"metrics": {"rmse": 0.25}}, "metadata.metrics.rmse must not be a float, TUF signs none; got 0.25"),
        ({"slices": [1, [float("nan")]]}, "metadata.slices[1][0] must not be a float"),
        ({"a": {3: 1}}, "metadata.a must have strings as keys; got 3"),
        ({"a": b"x"}, "metadata.a must be JSON; got bytes"),
        ({"a": "\ud800"}, "metadata.a must be text that UTF-8 can hold"),
        ({"\ud800": 1}, "metadata must be text that UTF-8 can hold"),
        ([1], "metadata must be a mapping; got list"),
    ],
)
def test_metadata_that_cannot_be_signed_is_refused_by_key(metadata: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        records.checked_metadata(metadata)


class Kind(str, enum.Enum):
    FARE = "fare"


class Level(enum.IntEnum):
    LOW = 1


def test_metadata_is_made_of_plain_values() -> None:
    plain = records.checked_metadata({"kind": Kind.FARE, Kind.FARE: Level.LOW})
    assert plain == {"kind": "fare", "fare": 1}
    assert {*map(type, plain), *map(type, plain.values())} == {str, int}


def test_a_version_record_survives_its_targets() -> None:
    metadata = {"metrics": {"rmse_ppm": 3}, "tags": ("a", None, True), "text": 'quote " slash \\ line \n é'}
    (file, content), (beside, note) = records.version_targets(
        "m", 7, "small", b"content", metadata=metadata, published_unix_s=5
    )
    assert (file.path, beside.path, content) == ("m/7/small.tflite", "m/7/small.record.json", b"content")
    beside.verify_length_and_hashes(note)
    record = records.read_version("m", 7, "small", file, note)
    assert (record.model, record.version, record.variant) == ("m", 7, "small")
    assert (record.size_bytes, record.published_unix_s, record.withdrawn) == (7, 5, "")
    assert record.sha256 == "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    assert record.metadata == {**metadata, "tags": ["a", None, True]}


def test_a_file_that_was_taken_back_says_why_and_stays_the_same_file() -> None:
    (file, _), (_, note) = records.version_targets("m", 7, "default", b"x", metadata={}, published_unix_s=5)
    taken = records.withdraw(file, "wrong units")
    assert (taken.path, taken.length, taken.hashes) == (file.path, file.length, file.hashes)
    assert records.read_version("m", 7, "default", taken, note).withdrawn == "wrong units"
    assert records.withdrawn(file) == ""


@pytest.mark.parametrize(
    ("custom", "why"),
    [({"tag": 1}, ""), ("text", ""), ({"withdrawn": 3}, "the registry does not say why")],
)
def test_a_target_of_another_make_is_not_withdrawn_unless_it_says_so(custom: Any, why: str) -> None:
    file = records.target("m/7/model.tflite", b"x")
    file.unrecognized_fields["custom"] = custom
    assert records.withdrawn(file) == why


def test_what_else_a_target_says_stays_when_it_is_withdrawn() -> None:
    file = records.target("m/7/model.tflite", b"x")
    file.unrecognized_fields["custom"] = {"tag": 1}
    assert records.withdraw(file, "wrong units").custom == {"tag": 1, "withdrawn": "wrong units"}


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"[]",
        b"{}",
        b'{"metadata":1,"published_unix_s":1}',
        b'{"metadata":{},"published_unix_s":"1"}',
        b'{"metadata":{},"published_unix_s":true}',
    ],
)
def test_a_signed_record_of_another_make_is_refused(note: bytes) -> None:
    (file, _), _ = records.version_targets("m", 7, "default", b"x", metadata={}, published_unix_s=5)
    with pytest.raises(RegistryError, match=re.escape("It was not made by this registry's publisher.")):
        records.read_version("m", 7, "default", file, note)


def test_a_record_of_another_make_is_shown_short_and_in_ascii() -> None:
    file = records.target("m/7/model.tflite", b"x")
    note = json.dumps(["\u0430" * 10]).encode()
    shown = ("['" + "\\u0430" * 10)[:57]
    with pytest.raises(
        RegistryError, match=re.escape(f"must have metadata and published_unix_s; got {shown}.... It was")
    ):
        records.read_version("m", 7, "default", file, note)


def test_a_file_that_was_signed_without_a_sha256_is_refused() -> None:
    (file, _), (_, note) = records.version_targets("m", 7, "default", b"x", metadata={}, published_unix_s=5)
    file.hashes = {"sha512": "0" * 128}
    message = "Target 'm/7/model.tflite' must carry a sha256; got ['sha512']."
    with pytest.raises(RegistryError, match=re.escape(message)):
        records.read_version("m", 7, "default", file, note)


def _channel(**changes: Any) -> bytes:
    said = {"model": "m", "channel": "stable", "sequence": 1, "unix_s": 5, "action": "publish"}
    said["rollouts"] = [{"version": 2}, {"version": 1}]
    return json.dumps({**said, **changes}).encode()


def test_a_channel_record_is_read_as_it_was_written() -> None:
    record = records.read_channel("m", "stable", _channel())
    assert record.rollouts == (records.Rollout(2), records.Rollout(1))
    assert records.read_channel("m", "stable", record.to_json().encode()) == record


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be JSON"),
        (b"\xff", "must be JSON"),
        (b'{"channel":"stable","model":"m"}', "lacks 'action', 'rollouts', 'sequence', 'unix_s'"),
        (_channel(x=1), "has no setting 'x'"),
        (_channel(rollouts=[{"version": 0}]), "Version must be an integer of at least 1; got 0"),
        (_channel(rollouts=[{"version": 1, "rollout_permille": 1001}]), "from 0 to 1000 permille; got 1001"),
        (
            _channel(rollouts=[{"version": 1}, {"version": 2}]),
            "must offer each file once, newest version first",
        ),
        (
            _channel(rollouts=[{"version": 1}, {"version": 1}]),
            "must offer each file once, newest version first",
        ),
        (_channel(sequence=0), "Version must be an integer of at least 1; got 0"),
        (_channel(channel="A"), "Channel name must be 1 to 63 of a-z, 0-9 and '-'"),
        (_channel(channel="beta"), "must be about channel 'stable' of 'm'; got 'beta'"),
        (_channel(model="n"), "got 'stable' of 'n'"),
    ],
)
def test_a_channel_record_is_read_strictly(content: bytes, message: str) -> None:
    with pytest.raises(RegistryError, match=re.escape(message)):
        records.read_channel("m", "stable", content)
