"""The model: embeddings for what is categorical, everything else as it is, two dense layers, one fare.

It takes whatever features the transform gives it, so the same module serves raw and engineered features and
both data sources.
"""

import tf_keras
from tf_keras import layers

from taxi_fare.features import CATEGORICAL
from tfx_mobile.common.embedding import embedding_size
from tfx_mobile.pruning_trainer.context import BuildContext


def build_model(ctx: BuildContext) -> tf_keras.Model:
    """Returns the compiled model.

    Args:
      ctx: `hyperparameters` may hold `units` (of the first dense layer), `learning_rate` and `huber_delta`
        (in the fare's unit).
    """
    inputs = {
        name: layers.Input(shape=spec.shape, dtype=spec.dtype, name=name)
        for name, spec in sorted(ctx.feature_spec.items())
    }
    numbers = [tensor for name, tensor in inputs.items() if name not in CATEGORICAL]
    embedded = []
    for name, tensor in inputs.items():
        if name in CATEGORICAL:
            size = embedding_size(CATEGORICAL[name])
            rows = layers.Embedding(CATEGORICAL[name], size, name=f"{name}_embedding")(tensor)
            embedded.append(layers.Flatten(name=f"{name}_flat")(rows))
    joined = layers.Concatenate(name="features")([*numbers, *embedded])
    units = int(ctx.hyperparameters.get("units", 128))
    hidden = layers.Dense(units, activation="relu", name="hidden_1")(joined)
    hidden = layers.Dense(units // 2, activation="relu", name="hidden_2")(hidden)
    fare = layers.Dense(1, name="fare")(hidden)
    model = tf_keras.Model(inputs, fare, name="taxi_fare")
    model.compile(
        optimizer=tf_keras.optimizers.Adam(ctx.hyperparameters.get("learning_rate", 2e-3)),
        loss=tf_keras.losses.Huber(delta=ctx.hyperparameters.get("huber_delta", 5.0)),
        metrics=[tf_keras.metrics.RootMeanSquaredError(name="rmse")],
    )
    return model
