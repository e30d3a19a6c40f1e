"""What a user's `build_model` is given."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfx_mobile.common import embedding
from tfx_mobile.common.errors import ConfigError


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

    def vocabulary_size(self, feature: str, *, vocabulary: str = "") -> int:
        """Returns how many indices a categorical feature has, from 0 to the largest.

        An index of -1 (a word that is not in the vocabulary, where `default_value` and `num_oov_buckets` are
        not given) is not one of them, and no embedding has a row for it.

        Args:
          feature: A transformed feature; TFT's vocabularies and buckets leave the range in the schema.
          vocabulary: Name of the TFT vocabulary, whose size counts where the schema has no range.

        Raises:
          ConfigError: There is no such feature or vocabulary, or its size is not known.
        """
        found = {one.name: one for one in self.transform_output.transformed_metadata.schema.feature}
        if feature not in found:
            raise ConfigError(
                f"A categorical feature must be a transformed feature; got {feature!r}. "
                f"There are {', '.join(sorted(found))}."
            )
        size = embedding.vocabulary_size(found[feature])
        if size is None and vocabulary:
            size = self._size_by_name(vocabulary)
        if size is None:
            raise ConfigError(
                f"Feature {feature!r} must have a known number of values; Transform's schema does not "
                "say it. Make it with tft.compute_and_apply_vocabulary or tft.bucketize, name its "
                "vocabulary, or call tfx_mobile.embedding_size with the number."
            )
        return size

    def embedding_size(self, feature: str, *, vocabulary: str = "") -> int:
        """Returns how wide the embedding of a categorical feature should be: see `tfx_mobile.embedding_size`.

        Args:
          feature: As for `vocabulary_size`.
          vocabulary: As for `vocabulary_size`.

        Raises:
          ConfigError: As for `vocabulary_size`.
        """
        return embedding.embedding_size(self.vocabulary_size(feature, vocabulary=vocabulary))

    def _size_by_name(self, vocabulary: str) -> int:
        try:
            return int(self.transform_output.vocabulary_size_by_name(vocabulary))
        except ValueError as error:
            raise ConfigError(
                f"vocabulary must name a vocabulary of the TransformGraph; got {vocabulary!r}."
            ) from error
