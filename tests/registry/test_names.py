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


@given(model=NAMES, channel=NAMES, version=st.integers(1, 10**18 - 1))
def test_a_path_gives_back_the_names_it_was_made_of(model: str, channel: str, version: int) -> None:
    assert names.version_in_path(model, names.model_path(model, version)) == version
    assert names.channel_in_path(model, names.channel_path(model, channel)) == channel
    assert names.model_of_role(names.role_name(model)) == model


@pytest.mark.parametrize(
    "path",
    [
        "taxi-fare/../model.tflite",
        "taxi-fare/01/model.tflite",
        "taxi-fare/1/other.tflite",
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
