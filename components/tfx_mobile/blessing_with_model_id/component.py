"""The TFX component: its channels. It has no settings."""

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from tfx_mobile.blessing_with_model_id.executor import Executor
from tfx_mobile.common.fingerprint import source_fingerprint


class BlessingWithModelIdSpec(types.ComponentSpec):
    """Channels and parameters of BlessingWithModelId."""

    INPUTS = {  # noqa: RUF012
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
    }
    OUTPUTS = {  # noqa: RUF012
        "model_blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
    }
    PARAMETERS = {  # noqa: RUF012
        "code": component_spec.ExecutionParameter(type=str),
    }


class BlessingWithModelId(base_component.BaseComponent):
    """Repeats a blessing, with the id of the model it is about: what `LatestBlessedModelStrategy` looks for.

    TFX gives an artifact its id when the component that made it is over, so SizeLatencyEvaluator, which makes
    the model and the blessing at once, cannot know it. Needed for a stock Resolver only: the stock Pusher and
    RegistryPusher take SizeLatencyEvaluator's blessing as it is.

    Args:
      model: SizeLatencyEvaluator's `model`.
      blessing: SizeLatencyEvaluator's `blessing`.
    """

    SPEC_CLASS = BlessingWithModelIdSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self, model: types.BaseChannel, blessing: types.BaseChannel) -> None:
        super().__init__(
            spec=BlessingWithModelIdSpec(
                model=model,
                blessing=blessing,
                code=source_fingerprint("tfx_mobile.blessing_with_model_id", "tfx_mobile.common"),
                model_blessing=types.Channel(type=standard_artifacts.ModelBlessing),
            )
        )
