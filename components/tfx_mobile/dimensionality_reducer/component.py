"""The TFX component: its channels, its settings, and what can be checked when a pipeline is built."""

from collections.abc import Sequence

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from tfx_mobile.common.artifacts import Reduction
from tfx_mobile.common.fingerprint import source_fingerprint
from tfx_mobile.dimensionality_reducer.checks import check
from tfx_mobile.dimensionality_reducer.config import AnyReduction, ReducerConfig
from tfx_mobile.dimensionality_reducer.executor import Executor


class DimensionalityReducerSpec(types.ComponentSpec):
    """Channels and parameters of DimensionalityReducer."""

    INPUTS = {  # noqa: RUF012
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "transform_graph": component_spec.ChannelParameter(type=standard_artifacts.TransformGraph),
    }
    # TFX wants every name once over inputs, outputs and parameters: docs/adr/0002-output-names.md.
    OUTPUTS = {  # noqa: RUF012
        "reduced_examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "reduced_transform_graph": component_spec.ChannelParameter(type=standard_artifacts.TransformGraph),
        "reduction": component_spec.ChannelParameter(type=Reduction),
    }
    PARAMETERS = {  # noqa: RUF012
        "config": component_spec.ExecutionParameter(type=str),
        "code": component_spec.ExecutionParameter(type=str),
    }


class DimensionalityReducer(base_beam_component.BaseBeamComponent):
    """Fits reductions on the train split and applies them to every split and to the TransformGraph.

    `reduced_examples` and `reduced_transform_graph` take the place of Transform's outputs: the graph is raw
    features -> TFT -> reduction, so any Trainer and the phone do the same arithmetic. The label and every
    feature that is not named pass through. `reduction` holds `reduction.json`, with every number, and
    `reduction.html`, one page that shows them.

    Args:
      examples: Transformed Examples, with a split 'train'.
      transform_graph: The TransformGraph they were made with.
      reductions: What to reduce, for example `[PCA(inputs=("a", "b"), output="pca", n_components=0.99)]`.
      label_key: Name of the transformed label: the methods that learn from it need it, and the report colours
        its picture of the rows by it.

    Raises:
      ConfigError: A setting is wrong.
      DataError: More outputs are asked for than there are inputs, where those are known by now.
    """

    SPEC_CLASS = DimensionalityReducerSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        examples: types.BaseChannel,
        transform_graph: types.BaseChannel,
        reductions: Sequence[AnyReduction],
        label_key: str = "",
    ) -> None:
        config = ReducerConfig(reductions=tuple(reductions), label_key=label_key)
        config = ReducerConfig.from_json(config.to_json())  # refuses values of a wrong type here already
        for reduction in config.reductions:
            if not reduction.numeric and all(one.depth for one in reduction.one_hot):
                check(reduction, sum(one.depth or 0 for one in reduction.one_hot))
        super().__init__(
            spec=DimensionalityReducerSpec(
                examples=examples,
                transform_graph=transform_graph,
                config=config.to_json(),
                code=source_fingerprint("tfx_mobile.dimensionality_reducer", "tfx_mobile.common"),
                reduced_examples=types.Channel(type=standard_artifacts.Examples),
                reduced_transform_graph=types.Channel(type=standard_artifacts.TransformGraph),
                reduction=types.Channel(type=Reduction),
            )
        )
