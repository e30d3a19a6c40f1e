"""Records of versions and channels."""

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


def test_a_version_record_survives_its_target() -> None:
    metadata = {"metrics": {"rmse_ppm": 3}, "tags": ("a", None, True), "text": 'quote " slash \\ line \n é'}
    target = records.version_target("m", 7, b"content", metadata=metadata, published_unix_s=5)
    record = records.read_version("m", 7, target)
    assert (record.model, record.version, record.size_bytes, record.published_unix_s) == ("m", 7, 7, 5)
    assert record.sha256 == "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    assert record.metadata == {**metadata, "tags": ["a", None, True]}


@pytest.mark.parametrize(
    "custom", [None, {}, {"metadata": 1, "published_unix_s": 1}, {"metadata": {}, "published_unix_s": "1"}]
)
def test_a_signed_target_of_another_make_is_refused(custom: Any) -> None:
    target = records.version_target("m", 7, b"content", metadata={}, published_unix_s=5)
    target.unrecognized_fields["custom"] = custom
    with pytest.raises(RegistryError, match=re.escape("It was not made by this registry's publisher.")):
        records.read_version("m", 7, target)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be JSON"),
        (b"\xff", "must be JSON"),
        (b'{"channel":"stable","model":"m"}', "lacks 'version'"),
        (b'{"channel":"stable","model":"m","version":1,"x":1}', "has no setting 'x'"),
        (b'{"channel":"stable","model":"m","version":0}', "Version must be an integer of at least 1; got 0"),
        (b'{"channel":"beta","model":"m","version":1}', "must be about channel 'stable' of 'm'; got 'beta'"),
        (b'{"channel":"stable","model":"n","version":1}', "got 'stable' of 'n'"),
    ],
)
def test_a_channel_record_is_read_strictly(content: bytes, message: str) -> None:
    with pytest.raises(RegistryError, match=re.escape(message)):
        records.read_channel("m", "stable", content)
