"""Calling TensorFlow's own TFLite converter: built-in ops only, and a refusal in one line.

What is converted, and in which mode, is the caller's (quantizer/tflite.py, pruning_trainer/keras_export.py).
"""

import re
import tempfile
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfx_mobile.common.errors import DataError
from tfx_mobile.common.interpreter import SIGNATURE

_OPS = re.compile(r"tf\.[A-Z]\w+")
_REFUSED = re.compile(r'fused\["[^"]*", "([^"@]+)@[^\n]*?\'(tf\.\w+)\' op is neither')


class ConversionError(DataError):
    """The converter refuses a model; nothing is said about its predictions or its weights."""


def convert(
    module: tf.Module, function: Any, settings: Callable[[tf.lite.TFLiteConverter], None] | None = None
) -> bytes:
    """Returns the TFLite file of a function, with the signature 'serving_default'.

    Args:
      module: Holds every variable and table that the function uses.
      function: A concrete function of tensors by name.
      settings: Sets what is not a plain float32 conversion on the converter.

    Raises:
      ConversionError: The converter refuses; the message has its reason in one line.
    """
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={SIGNATURE: function})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[SIGNATURE])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if settings is not None:
            settings(converter)
        try:
            return bytes(converter.convert())
        except Exception as error:  # the converter raises whatever its C++ side threw
            raise ConversionError(f"the TFLite converter refuses: {_one_line(str(error))}") from error


def _one_line(message: str) -> str:
    """Returns what helps of a converter's message: the ops TFLite has no built-in for, or its last line."""
    places: dict[str, set[str]] = {}
    for place, op in _REFUSED.findall(message):
        places.setdefault(op, set()).add(place.rpartition("/")[0] or place)
    if ops := sorted(set(_OPS.findall(message))):
        named = [f"{op} (in {', '.join(sorted(places[op]))})" if op in places else op for op in ops]
        return f"no built-in TFLite op for {', '.join(named)}; rewrite that part of the model"
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return (lines[-1] if lines else "no reason given")[:300]
