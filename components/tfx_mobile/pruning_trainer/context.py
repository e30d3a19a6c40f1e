"""What a user's `build_model` is given."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class BuildContext:
    """The surroundings of one training.

    Attributes:
      feature_spec: Transformed feature name to its `tf.io` feature spec, the label left out.
      label_key: Name of the label feature.
      transform_output: The `tft.TFTransformOutput` of the graph the rows came through.
      hyperparameters: The component's `hyperparameters`.
    """

    feature_spec: Mapping[str, Any]
    label_key: str
    transform_output: Any
    hyperparameters: Mapping[str, float]
