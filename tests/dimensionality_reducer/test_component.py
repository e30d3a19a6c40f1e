"""The component: its channels, and what is refused when a pipeline is built."""

import re
from typing import Any

import pytest

from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.dimensionality_reducer.config import PCA, OneHot, ReducerConfig

pytestmark = pytest.mark.pipeline


def component(*reductions: PCA) -> Any:
    from tfx import types
    from tfx.types import standard_artifacts

    from tfx_mobile.dimensionality_reducer.component import DimensionalityReducer

    return DimensionalityReducer(
        examples=types.Channel(type=standard_artifacts.Examples),
        transform_graph=types.Channel(type=standard_artifacts.TransformGraph),
        reductions=list(reductions),
    )


def test_its_outputs_take_the_place_of_transforms() -> None:
    from tfx.types import standard_artifacts

    from tfx_mobile.common.artifacts import Reduction

    outputs = component(PCA(inputs=("a", "b"), output="pca")).outputs
    assert {name: channel.type for name, channel in outputs.items()} == {
        "reduced_examples": standard_artifacts.Examples,
        "reduced_transform_graph": standard_artifacts.TransformGraph,
        "reduction": Reduction,
    }


def test_its_settings_reach_the_executor_unchanged() -> None:
    reduction = PCA(inputs=("a", "b"), output="pca", n_components=2, whiten=True)
    properties = component(reduction).exec_properties
    assert ReducerConfig.from_json(properties["config"]).reductions == (reduction,)


def test_the_same_settings_give_the_same_properties_and_others_do_not() -> None:
    one, same, other = (
        component(PCA(inputs=("a", "b"), output="pca", n_components=n)).exec_properties for n in (1, 1, 2)
    )
    assert one == same
    assert one["config"] != other["config"]
    assert re.fullmatch("[0-9a-f]{16}", one["code"])


def test_a_wrong_pipeline_is_refused_when_it_is_built() -> None:
    message = "DimensionalityReducer needs at least one reduction; got none."
    with pytest.raises(ConfigError, match=re.escape(message)):
        component()


def test_more_components_than_the_depths_make_are_refused_when_the_pipeline_is_built() -> None:
    inputs = (OneHot("a", depth=2), OneHot("b", depth=3))
    message = "PCA.n_components must be at most 5, the width of its inputs; got 6."
    with pytest.raises(DataError, match=re.escape(message)):
        component(PCA(inputs=inputs, output="pca", n_components=6))
    assert component(PCA(inputs=(*inputs, "miles"), output="pca", n_components=6)).outputs


def test_a_value_of_a_wrong_type_is_refused_when_the_pipeline_is_built() -> None:
    message = "ReducerConfig.reductions[0].standardise must be bool; got str 'no'."
    with pytest.raises(ConfigError, match=re.escape(message)):
        component(PCA(inputs=("a",), output="pca", standardise="no"))  # type: ignore[arg-type]


def test_it_runs_on_beam_with_the_pipelines_arguments() -> None:
    from tfx.dsl.components.base import executor_spec

    from tfx_mobile.dimensionality_reducer.executor import Executor

    spec = component(PCA(inputs=("a",), output="pca")).executor_spec
    assert isinstance(spec, executor_spec.BeamExecutorSpec)
    assert spec.executor_class is Executor
