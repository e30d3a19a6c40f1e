"""What a user's `build_model` and `input_fn` are given."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from tfx_mobile.common import embedding
from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.pruning_trainer.config import Resources


@dataclasses.dataclass(frozen=True)
class BuildContext:
    """The surroundings of one training.

    Attributes:
      feature_spec: Transformed feature name to its `tf.io` feature spec, the label left out.
      label_key: Name of the label feature.
      transform_output: The `tft.TFTransformOutput` of the graph the rows came through.
      hyperparameters: The component's `hyperparameters`, a Tuner's best included.
      splits: Split to patterns of the files with its transformed rows.
      train_splits: Those that are trained on.
      seed: The component's.
    """

    feature_spec: Mapping[str, Any]
    label_key: str
    transform_output: Any
    hyperparameters: Mapping[str, Any]
    splits: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    train_splits: tuple[str, ...] = ("train",)
    seed: int = 1

    @property
    def schema(self) -> Any:
        """The `schema_pb2.Schema` of the transformed features, the label's included."""
        return self.transform_output.transformed_metadata.schema

    def dataset(self, split: str, batch_size: int, *, shuffle_rows: int | None = None) -> Any:
        """Returns the component's own reading of one split, for an `input_fn` to build on.

        One that changes batches on their way is `return ctx.dataset(split, batch_size).map(augment)`.

        Args:
          split: One of `splits`.
          batch_size: Rows of a batch; the last one may be smaller.
          shuffle_rows: Rows shuffled together, in a new order in each epoch; None is 100,000 for splits that
            are trained on and 0, the order of the files, for others.

        Returns:
          A `tf.data.Dataset` of one epoch: batches of features by name, and labels.

        Raises:
          ConfigError: There is no such split.
          DataError: It has no files.
        """
        from tfx_mobile.pruning_trainer import keras_input

        if split not in self.splits:
            raise ConfigError(
                f"A split must be one of the Examples'; got {split!r}. "
                f"There are {', '.join(sorted(self.splits))}."
            )
        if shuffle_rows is None:
            shuffle_rows = Resources.shuffle_rows if split in self.train_splits else 0
        return keras_input.read_split(
            self.splits[split],
            split,
            self.transform_output.transformed_feature_spec(),
            self.label_key,
            batch_size=batch_size,
            shuffle_rows=shuffle_rows,
            seed=self.seed,
        )

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
        found = {one.name: one for one in self.schema.feature}
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


def tuner_values(text: str) -> dict[str, Any]:
    """Returns the hyperparameters that a Tuner found best.

    Args:
      text: Of its `best_hyperparameters.txt`: the JSON of KerasTuner's `HyperParameters.get_config()`.

    Raises:
      DataError: It is something else.
    """
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{_TUNER_RULE}; got text that is not JSON ({error}).") from error
    if not isinstance(found, dict):
        raise DataError(f"{_TUNER_RULE}; got JSON of a {type(found).__name__}.")
    values = found.get("values")
    if not isinstance(values, dict):
        raise DataError(
            f"{_TUNER_RULE}; got no 'values' by name among {', '.join(sorted(found)) or 'nothing'}."
        )
    return values


_TUNER_RULE = "A Tuner's best hyperparameters must be the JSON of KerasTuner's HyperParameters.get_config()"
