"""Settings of a reduction are refused when the pipeline is built, and travel as strict JSON."""

import re
from typing import Any

import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.dimensionality_reducer.config import PCA, ReducerConfig


def pca(**options: Any) -> PCA:
    return PCA(**{"inputs": ("a", "b"), "output": "pca"} | options)


@pytest.mark.parametrize("inputs", [(), ("a", "a"), ("a", "b", "a")])
def test_inputs_are_one_or_more_different_features(inputs: tuple[str, ...]) -> None:
    message = f"PCA.inputs must be one or more different features; got {list(inputs)}."
    with pytest.raises(ConfigError, match=re.escape(message)):
        pca(inputs=inputs)


def test_a_string_is_not_taken_for_a_list_of_letters() -> None:
    message = "PCA.inputs must be one or more different features; got 'ab'."
    with pytest.raises(ConfigError, match=re.escape(message)):
        pca(inputs="ab")


def test_the_output_needs_a_name() -> None:
    with pytest.raises(
        ConfigError, match=re.escape("PCA.output must name the feature to make; got an empty name.")
    ):
        pca(output="")


@pytest.mark.parametrize("wanted", [0, -1, 0.0, 1.5, -0.1, float("nan"), float("inf"), True, "2"])
def test_the_number_of_components_is_a_count_or_a_share(wanted: Any) -> None:
    message = (
        "PCA.n_components must be a count (int >= 1) or a share of variance (float in (0, 1]); "
        f"got {wanted!r}."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        pca(n_components=wanted)


def test_one_component_and_all_of_the_variance_are_not_the_same() -> None:
    config = ReducerConfig((pca(n_components=1), pca(inputs=("c",), output="all", n_components=1.0)))
    back = ReducerConfig.from_json(config.to_json())
    assert [type(one.n_components) for one in back.reductions] == [int, float]
    assert back == config


def test_columns_are_numbered_where_a_feature_has_several_values() -> None:
    assert pca().columns({"a": 1, "b": 3}) == ["a", "b[0]", "b[1]", "b[2]"]


def test_a_run_needs_a_reduction() -> None:
    message = "DimensionalityReducer needs at least one reduction; got none."
    with pytest.raises(ConfigError, match=re.escape(message)):
        ReducerConfig(())


def test_two_reductions_must_not_share_an_output() -> None:
    message = "Each reduction must have an output of its own; got ['pca', 'pca']."
    with pytest.raises(ConfigError, match=re.escape(message)):
        ReducerConfig((pca(), pca(inputs=("c",))))


def test_an_output_must_not_be_an_input() -> None:
    message = "An output must not be an input of a reduction; got ['b']."
    with pytest.raises(ConfigError, match=re.escape(message)):
        ReducerConfig((pca(), pca(inputs=("c",), output="b")))


def test_an_input_is_dropped_unless_one_of_its_reductions_keeps_it() -> None:
    config = ReducerConfig((pca(), pca(inputs=("b", "c"), output="two", keep_inputs=True)))
    assert config.dropped_features() == {"a"}


def test_the_same_settings_give_the_same_bytes() -> None:
    assert ReducerConfig((pca(),)).to_json() == (
        '{"reductions":[{"inputs":["a","b"],"keep_inputs":false,"kind":"pca","n_components":0.99,'
        '"output":"pca","standardise":true,"whiten":false}]}'
    )
