"""Writing a rung so that Keras, a server, the stock Evaluator and the Quantizer can load it, and reading it.

A rung's folder is a SavedModel with two signatures: `serving_default` takes serialised raw tf.Examples, as
TFX's own trainers export it; `transformed` takes transformed features by name. Beside it is the Keras model
itself, in the format of its own Keras. Knows Keras 2 (`tf_keras`) and Keras 3 (`keras`) and does not train.
"""

import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras  # type: ignore[import-untyped,unused-ignore]
import tensorflow as tf
import tensorflow_transform as tft
import tf_keras
from absl import logging

from tfx_mobile.common import tflite
from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.common.interpreter import SIGNATURE
from tfx_mobile.common.ladder import KERAS_FILE, MODEL_SIGNATURE, ONE_ROW_SIGNATURE, WEIGHTS
from tfx_mobile.pruning_trainer.selection import leaf_layers, own_classes, weight_name

OUTPUT = "predictions"  # of a model with one output
_QUANTIZED = b"QuantizeWrapperV2"  # tfmot's class around each layer that it quantises


def save(
    model: Any,
    transform_output: tft.TFTransformOutput | None,
    label_key: str,
    folder: str,
) -> None:
    """Saves the model, with its preprocessing.

    A model with sparse or ragged inputs has no `transformed` signature: a signature takes tensors by name,
    and such an input is several. A model with recurrent layers has a third one, `transformed_one_row`,
    because the TFLite converter takes such layers with a fixed number of rows only.

    Args:
      model: Functional or Sequential, of Keras 2 or Keras 3; its inputs have the names of features.
      transform_output: Of the graph whose features the model takes; None where there is none, and both
        signatures take the model's inputs.
      label_key: Raw feature that is not there when serving.
      folder: Where to write; URI.

    Raises:
      ConfigError: The model has no fixed inputs, they are not features, or it cannot be written by Keras.
    """
    inputs = _input_specs(model)
    call = _caller(model, inputs)
    signatures: dict[str, Any] = {}
    if all(isinstance(spec, tf.TensorSpec) for spec in inputs.values()):
        signatures[MODEL_SIGNATURE] = _traced(call, inputs)
        if any(hasattr(layer, "return_sequences") for layer in leaf_layers(model)):
            signatures[ONE_ROW_SIGNATURE] = _traced(call, inputs, rows=1)
    else:
        logging.info("%s has no signature %r: it has sparse inputs.", folder, MODEL_SIGNATURE)
    transform = None
    if transform_output is not None:
        transform = transform_output.transform_features_layer()
        signatures[SIGNATURE] = _serving_function(call, set(inputs), transform, transform_output, label_key)
    elif signatures:
        signatures[SIGNATURE] = signatures[MODEL_SIGNATURE]
    else:
        raise ConfigError("A model with sparse inputs must come with its TransformGraph; got none.")
    write_saved_model = _write_keras_3 if isinstance(model, keras.Model) else _write_keras_2
    write_saved_model(model, transform, folder, signatures)
    _write_keras_file(model, f"{folder}/{KERAS_FILE}")


def load_model(
    folder: str,
    custom_objects: Mapping[str, Any] | None = None,
    *,
    compile: bool = True,
    safe_mode: bool = True,
) -> Any:
    """Returns the Keras model of a rung, or of a stock trainer's `Format-Serving` folder.

    A twin that was trained for int8 comes with what it quantises, and uncompiled.

    Args:
      folder: With `model.keras` in the format of either Keras, or a SavedModel that Keras 2 wrote; URI.
      custom_objects: Classes of layers, losses and metrics that are not registered with Keras, by name.
      compile: With its optimizer, loss and metrics.
      safe_mode: Refuse a Lambda layer that has Python code in it.

    Returns:
      A keras.Model or tf_keras.Model, compiled where it was.

    Raises:
      DataError: The folder has neither.
      ConfigError: The model has a class that Keras does not know, or refuses to load.
    """
    path = f"{folder}/{KERAS_FILE}"
    if tf.io.gfile.exists(path):
        with _local_copy(path) as local:
            return _loaded(_reader(local, path), path, local, custom_objects, compile, safe_mode)
    if not tf.io.gfile.exists(f"{folder}/saved_model.pb"):
        raise DataError(f"A Keras model must be {KERAS_FILE} or a SavedModel; got neither in {folder}.")
    if not tf.io.gfile.exists(f"{folder}/keras_metadata.pb"):
        raise DataError(
            f"A SavedModel must have been written by Keras 2, or have {KERAS_FILE} beside it, to be trained "
            f"on; got one without its metadata in {folder}. Save the model as {KERAS_FILE} in that folder."
        )
    return _loaded(tf_keras.models.load_model, folder, folder, custom_objects, compile, safe_mode)


def read_back(model: Any, folder: str) -> Any:
    """Returns the uncompiled Keras model that `save` wrote of this model, whose own classes are at hand."""
    return load_model(folder, own_classes(model), compile=False, safe_mode=False)


def check_can_be_saved(model: Any) -> None:
    """Refuses a model that Keras cannot write and read, before it is trained.

    Raises:
      ConfigError: It cannot.
    """
    with tempfile.TemporaryDirectory() as folder:
        _write_keras_file(model, f"{folder}/{KERAS_FILE}")
        read_back(model, folder)


def float32_tflite(folder: str) -> bytes:
    """Returns the float32 TFLite file of a rung's model, of a batch of one row where it is recurrent.

    Args:
      folder: That `save` wrote; URI.

    Raises:
      ConversionError: The converter refuses, or there is no such signature.
    """
    loaded = tf.saved_model.load(folder)
    if MODEL_SIGNATURE not in loaded.signatures:
        raise tflite.ConversionError(
            f"A SavedModel to convert must have the signature {MODEL_SIGNATURE!r}; got "
            f"{', '.join(sorted(loaded.signatures)) or 'none'} in {folder}."
        )
    signature = loaded.signatures[
        ONE_ROW_SIGNATURE if ONE_ROW_SIGNATURE in loaded.signatures else MODEL_SIGNATURE
    ]
    specs = signature.structured_input_signature[1]
    return tflite.convert(loaded, _traced(lambda features: signature(**features), specs))


def _input_specs(model: Any) -> dict[str, Any]:
    """Returns the type of each input by the name it is fed by."""
    if not getattr(model, "inputs", None):
        raise ConfigError(
            "A model to export must have fixed inputs: a functional one, Model(inputs, outputs), or a "
            f"Sequential one with an Input; got the class {type(model).__name__}."
        )
    given = _inputs(model)
    if not isinstance(given, Mapping):
        flat = given if isinstance(given, (list, tuple)) else [given]
        given = dict(zip(_input_names(model), flat, strict=True))
    return {name: _spec(name, tensor) for name, tensor in given.items()}


def _inputs(model: Any) -> Any:
    """Returns the inputs as the model takes them: a dict, a list, or one tensor."""
    given = getattr(model, "input", None)  # Keras 3's Sequential has none
    return model.inputs[0] if given is None else given


def _input_names(model: Any) -> list[str]:
    if isinstance(model, keras.Model):
        return [tensor.name for tensor in model.inputs]
    return list(model.input_names)


def _spec(name: str, tensor: Any) -> Any:
    found = getattr(tensor, "type_spec", None)  # Keras 2
    if isinstance(found, (tf.SparseTensorSpec, tf.RaggedTensorSpec)):
        return found
    if not hasattr(tensor, "shape"):
        raise ConfigError(f"Input {name!r} must be one tensor; got {type(tensor).__name__}.")
    shape, dtype = tf.TensorShape(tensor.shape), tf.as_dtype(tensor.dtype)
    if getattr(tensor, "sparse", False):
        return tf.SparseTensorSpec(shape, dtype)
    if getattr(tensor, "ragged", False):
        return tf.RaggedTensorSpec(shape, dtype)
    return tf.TensorSpec(shape, dtype, name=name)


def _caller(model: Any, inputs: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Returns the model as a function of its inputs by name to its outputs by name."""
    given = _inputs(model)

    def call(features: Mapping[str, Any]) -> dict[str, Any]:
        fed: Any = {name: features[name] for name in inputs}
        if not isinstance(given, Mapping):
            fed = list(fed.values()) if isinstance(given, (list, tuple)) else next(iter(fed.values()))
        made = model(fed, training=False)
        flat = tf.nest.flatten(made)
        if len(flat) == 1:
            return {OUTPUT: flat[0]}
        return dict(made) if isinstance(made, Mapping) else dict(zip(model.output_names, flat, strict=True))

    return call


def _traced(
    call: Callable[[Mapping[str, Any]], Any], inputs: Mapping[str, tf.TensorSpec], rows: int | None = None
) -> Any:
    """Returns the concrete function of tensors by name, of the inputs' own number of rows or of `rows`."""
    specs = {
        name: tf.TensorSpec([rows, *spec.shape[1:]] if rows else spec.shape, spec.dtype, name=name)
        for name, spec in inputs.items()
    }
    return tf.function(lambda **features: call(features), autograph=False).get_concrete_function(**specs)


def _serving_function(
    call: Callable[[Mapping[str, Any]], dict[str, Any]],
    wanted: set[str],
    transform: Any,
    transform_output: tft.TFTransformOutput,
    label_key: str,
) -> Any:
    made = transform_output.transformed_feature_spec()
    if missing := sorted(wanted - set(made)):
        raise ConfigError(
            f"The model's inputs must be transformed features; {', '.join(missing)} are not among "
            f"{', '.join(sorted(made))}. Give each Input the name of a feature."
        )
    raw_spec = transform_output.raw_feature_spec()
    raw_spec.pop(label_key, None)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")], autograph=False)
    def serve(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return call(transform(tf.io.parse_example(examples, raw_spec)))

    return serve


def _write_keras_2(model: Any, transform: Any, folder: str, signatures: Mapping[str, Any]) -> None:
    model.transform_layer = transform
    try:
        model.save(folder, save_format="tf", include_optimizer=False, signatures=dict(signatures))
    finally:
        del model.transform_layer


def _write_keras_3(model: Any, transform: Any, folder: str, signatures: Mapping[str, Any]) -> None:
    """Saves what the signatures use, and the weights by their Keras names, which the variables have not."""
    module = tf.Module()
    module.transform_layer = transform
    setattr(module, WEIGHTS, {weight_name(variable): variable.value for variable in model.weights})
    module.resources = [
        part
        for part in tf.train.TrackableView(model).descendants()
        if isinstance(part, tf.saved_model.experimental.TrackableResource)
    ]
    tf.saved_model.save(module, folder, signatures=dict(signatures))


def _write_keras_file(model: Any, path: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        local = str(Path(temporary, KERAS_FILE))
        try:
            model.save(local)
        except NotImplementedError as error:
            raise ConfigError(
                f"Keras must be able to write the model; a layer has no configuration: {_first_line(error)} "
                "Give its class a method get_config()."
            ) from error
        tf.io.gfile.copy(local, path, overwrite=True)


@contextmanager
def _local_copy(path: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as temporary:
        local = str(Path(temporary, KERAS_FILE))
        tf.io.gfile.copy(path, local)
        yield local


def _reader(local: str, path: str) -> Callable[..., Any]:
    """Returns the function that reads a file: of the Keras that wrote it, or for models trained for int8."""
    try:
        with zipfile.ZipFile(local) as archive:
            version = json.loads(archive.read("metadata.json"))["keras_version"]
            is_quantized = _QUANTIZED in archive.read("config.json")
        is_keras_3 = int(str(version).partition(".")[0]) >= 3
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise DataError(f"{KERAS_FILE} must be a file that Keras wrote; got another at {path}.") from error
    if is_quantized:
        from tfx_mobile.pruning_trainer import keras_quantization

        return lambda local, custom_objects, **_: keras_quantization.load(local, custom_objects)
    line = keras if is_keras_3 else tf_keras
    return line.models.load_model  # type: ignore[no-any-return]


def _loaded(
    read: Callable[..., Any],
    path: str,
    local: str,
    custom_objects: Mapping[str, Any] | None,
    compile: bool,
    safe_mode: bool,
) -> Any:
    try:
        return read(local, custom_objects=dict(custom_objects or {}), compile=compile, safe_mode=safe_mode)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"Keras must be able to load the model; it refuses {path}: {_first_line(error)} Register the "
            "classes of custom layers, losses and metrics with register_keras_serializable() and import "
            "their module, or give them in custom_objects; a Lambda layer with Python code needs "
            "safe_mode=False."
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
