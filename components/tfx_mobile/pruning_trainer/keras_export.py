"""Writing a rung as a SavedModel that Keras, the stock Evaluator and a server can load.

`serving_default` takes serialised raw tf.Examples, as TFX's own trainers export it.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft
import tf_keras


def save(model: tf_keras.Model, transform_output: tft.TFTransformOutput, label_key: str, folder: str) -> None:
    """Saves the model with its preprocessing.

    Args:
      model: Takes transformed features by name.
      transform_output: Of the graph whose features the model takes.
      label_key: Raw feature that is not there when serving.
      folder: Where to write; URI.
    """
    model.transform_layer = transform_output.transform_features_layer()
    serve = _serving_function(model, transform_output, label_key)
    model.save(folder, save_format="tf", include_optimizer=False, signatures={"serving_default": serve})
    del model.transform_layer


def _serving_function(
    model: tf_keras.Model, transform_output: tft.TFTransformOutput, label_key: str
) -> Callable[..., Any]:
    raw_spec = transform_output.raw_feature_spec()
    raw_spec.pop(label_key, None)
    wanted = set(model.input_names)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        features = model.transform_layer(tf.io.parse_example(examples, raw_spec))
        return {"predictions": model({k: v for k, v in features.items() if k in wanted}, training=False)}

    return serve  # type: ignore[no-any-return]
