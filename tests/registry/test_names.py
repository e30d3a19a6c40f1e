"""Names and paths."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.registry import names

NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
BAD_NAMES = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "a\\b",
    "/etc",
    "A",
    "a.b",
    "a_b",
    "-a",
    "a\n",
    "a ",
    "a*",
    "é",
    "a" * 64,
    "%2e%2e",
    None,
    3,
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_is_not_plain_is_refused_by_every_path_made_of_it(name: Any) -> None:
    rule = "must be 1 to 63 of a-z, 0-9 and '-', and start with a letter or digit; got " + repr(name)
    for build in (
        lambda: names.model_path(name, 1),
        lambda: names.channel_path(name, "stable"),
        lambda: names.role_name(name),
        lambda: names.delegated_paths(name),
    ):
        with pytest.raises(ConfigError, match=re.escape(f"Model name {rule}")):
            build()
    with pytest.raises(ConfigError, match=re.escape(f"Channel name {rule}")):
        names.channel_path("taxi-fare", name)


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1", None])
def test_a_version_is_an_integer_of_at_least_one(version: Any) -> None:
    rule = f"Version must be an integer of at least 1; got {version!r}."
    with pytest.raises(ConfigError, match=re.escape(rule)):
        names.model_path("taxi-fare", version)


def test_a_version_that_no_path_has_room_for_is_refused() -> None:
    assert names.file_in_path("taxi-fare", names.model_path("taxi-fare", names.MAX_VERSION)) is not None
    rule = "Version must have at most 18 digits; got 1000000000000000000."
    with pytest.raises(ConfigError, match=re.escape(rule)):
        names.model_path("taxi-fare", names.MAX_VERSION + 1)


VERSIONS = st.integers(1, names.MAX_VERSION)
VARIANTS = st.one_of(st.just("default"), NAMES.filter(lambda name: name != "model"))
ATTACHMENTS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,30}\.(html|json|txt|csv|png|svg)", fullmatch=True)


@given(NAMES, NAMES, VERSIONS, VARIANTS, ATTACHMENTS, VERSIONS)
def test_a_path_gives_back_the_names_it_was_made_of(
    model: str, channel: str, version: int, variant: str, attachment: str, base: int
) -> None:
    said = {
        names.file_in_path: (names.model_path(model, version, variant), (version, variant)),
        names.channel_in_path: (names.channel_path(model, channel), channel),
        names.attachment_in_path: (
            names.attachment_path(model, version, variant, attachment),
            (version, variant, attachment),
        ),
        names.delta_in_path: (names.delta_path(model, version, variant, base), (version, variant, base)),
    }
    for read, (path, parts) in said.items():
        assert read(model, path) == parts
        assert names.is_path_of(model, path)
        assert [other for other in said if other(model, path) is not None] == [read]
    record = names.record_path(model, version, variant)
    assert names.is_path_of(model, record)
    assert [read for read in said if read(model, record) is not None] == []
    assert names.model_of_role(names.role_name(model)) == model


@pytest.mark.parametrize("variant", [*BAD_NAMES, "model"])
def test_a_variant_is_a_name_that_is_not_taken(variant: Any) -> None:
    with pytest.raises(ConfigError, match=re.escape("Variant")):
        names.model_path("taxi-fare", 1, variant)


@pytest.mark.parametrize(
    "name", ["", "a", "a.exe", "../a.html", "A.html", "a.b.html", ".html", "a" * 32, None]
)
def test_an_attachment_is_a_plain_name_and_a_known_ending(name: Any) -> None:
    with pytest.raises(ConfigError, match=re.escape("Attachment must be 1 to 31 of a-z")):
        names.attachment_path("taxi-fare", 1, "default", name)


@pytest.mark.parametrize(
    "path",
    [
        "taxi-fare/../model.tflite",
        "taxi-fare/01/model.tflite",
        "taxi-fare/1/Other.tflite",
        "taxi-fare/1/default.tflite",
        "taxi-fare/1/model.json",
        "taxi-fare/1/model.with.a.exe",
        "taxi-fare/1/model.from-0.bsdiff",
        "taxi-fare/channels/A.json",
        "taxi-fare/channels/...json",
        "taxi-fare/1",
        "other/1/model.tflite",
        "other/channels/stable.json",
        "taxi-fare/1/x/model.tflite",
        "",
    ],
)
def test_a_path_that_no_names_make_is_nobodys(path: str) -> None:
    assert not names.is_path_of("taxi-fare", path)


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", "model-", "model-A", "other"])
def test_a_role_of_tuf_is_never_a_models(role: str) -> None:
    assert names.model_of_role(role) is None
    assert names.role_name("root") != "root"
