"""How wide an embedding should be, and what is categorical by the schema that Transform writes.

Reads the schema as the protocol buffer it is; does not know TensorFlow or TFX.

Source: Google Developers Blog (2017), Introducing TensorFlow Feature Columns: the fourth root of the number
of categories, as a rule of thumb.
"""

import math
import numbers
from typing import Any

from tfx_mobile.common.errors import ConfigError

_INT, _FLOAT = 2, 3  # schema_pb2.FeatureType


def embedding_size(vocabulary_size: int) -> int:
    """Returns the width of an embedding: the fourth root of the vocabulary's size, rounded, at least 1.

    >>> embedding_size(1000), embedding_size(81), embedding_size(2)
    (6, 3, 1)

    Args:
      vocabulary_size: How many different values there are, at least 1.

    Raises:
      ConfigError: It is not a whole number of at least 1.
    """
    size: object = vocabulary_size  # whatever the author passes, NumPy's integers included
    if isinstance(size, bool) or not isinstance(size, numbers.Integral) or size < 1:
        raise ConfigError(f"vocabulary_size must be an int of at least 1; got {vocabulary_size!r}.")
    return max(1, round(math.sqrt(math.sqrt(size))))


def vocabulary_size(feature: Any) -> int | None:
    """Returns how many indices a transformed feature has, from 0 to the largest; None if that is not known.

    -1, which TFT writes for a word that is not in the vocabulary unless `default_value` or `num_oov_buckets`
    is given, is not one of them.

    Args:
      feature: The `schema_pb2.Feature` of Transform's schema. `tft.compute_and_apply_vocabulary`,
        `tft.bucketize` and `tft.apply_buckets` write the range of the indices there.
    """
    domain = feature.int_domain
    if feature.type != _INT or not domain.HasField("max") or domain.max < 0:
        return None
    return int(domain.max) + 1


def vocabulary_sizes(schema: Any) -> dict[str, int]:
    """Returns the number of indices of each feature that Transform's schema calls categorical, by name."""
    sizes = {feature.name: vocabulary_size(feature) for feature in schema.feature}
    categorical = {feature.name for feature in schema.feature if feature.int_domain.is_categorical}
    return {name: size for name, size in sorted(sizes.items()) if size is not None and name in categorical}


def float_widths(schema: Any) -> dict[str, int]:
    """Returns the numbers per row of each float feature of fixed width, by name.

    Args:
      schema: Transform's; features of varying length have no shape in it.
    """
    widths = {}
    for feature in sorted(schema.feature, key=lambda one: one.name):
        if feature.type == _FLOAT and feature.HasField("shape"):
            width = 1
            for dim in feature.shape.dim:
                width *= dim.size
            widths[feature.name] = int(width)
    return widths
