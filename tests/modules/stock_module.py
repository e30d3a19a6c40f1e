"""User code of a pipeline of stock components: preprocessing with sparse features, and a plain Trainer."""

import os

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import tensorflow as tf
import tensorflow_transform as tft
import tf_keras
from tfx.components.trainer.fn_args_utils import FnArgs

NUMBERS = ("trip_miles", "trip_seconds", "pickup_latitude", "pickup_longitude")
LABEL = "fare"


def _dense(feature):
    """Fills in what is missing, as TFX's own taxi example does."""
    if isinstance(feature, tf.SparseTensor):
        wide = tf.SparseTensor(feature.indices, feature.values, [feature.dense_shape[0], 1])
        return tf.reshape(tf.sparse.to_dense(wide), [-1, 1])
    return feature


def preprocessing_fn(inputs):
    outputs = {f"{name}_z": tft.scale_to_z_score(_dense(inputs[name])) for name in NUMBERS}
    outputs[LABEL] = _dense(inputs[LABEL])
    return outputs


def _model(names_and_widths) -> tf_keras.Model:
    inputs = {name: tf_keras.Input((width,), name=name) for name, width in names_and_widths}
    joined = tf_keras.layers.Concatenate()(list(inputs.values()))
    hidden = tf_keras.layers.Dense(32, activation="relu")(joined)
    model = tf_keras.Model(inputs, tf_keras.layers.Dense(1)(hidden))
    model.compile("adam", tf_keras.losses.Huber(5.0))
    return model


def build_model(ctx) -> tf_keras.Model:
    return _model((name, int(spec.shape[0])) for name, spec in sorted(ctx.feature_spec.items()))


def run_fn(fn_args: FnArgs) -> None:
    """A plain Keras trainer, as TFX's tutorials write it; knows nothing of this project."""
    output = tft.TFTransformOutput(fn_args.transform_output)
    spec = output.transformed_feature_spec()
    dataset = tf.data.experimental.make_batched_features_dataset(
        fn_args.train_files,
        128,
        spec,
        reader=lambda files: tf.data.TFRecordDataset(files, "GZIP"),
        label_key=LABEL,
    )
    model = _model((name, int(one.shape[0])) for name, one in sorted(spec.items()) if name != LABEL)
    model.fit(dataset, steps_per_epoch=fn_args.train_steps, verbose=0)
    model.tft_layer = output.transform_features_layer()
    raw_spec = output.raw_feature_spec()
    raw_spec.pop(LABEL)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve(examples):
        return model(model.tft_layer(tf.io.parse_example(examples, raw_spec)))

    model.save(fn_args.serving_model_dir, save_format="tf", signatures={"serving_default": serve})
