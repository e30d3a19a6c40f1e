"""One fitted reduction applied in three ways: by NumPy, in a TensorFlow function, in a TFLite file."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from tfx_mobile.dimensionality_reducer import core
from tfx_mobile.dimensionality_reducer.config import Input, OneHot, Reduction
from tfx_mobile.dimensionality_reducer.models import Fitted
from tfx_mobile.dimensionality_reducer.rows import Rows
from tfx_mobile.dimensionality_reducer.statistics import Statistics

PAIR = OneHot("pair")  # two indices a row
BAG = OneHot("bag", weights="tfidf")  # any number of them, with weights
WIDTHS: dict[Input, int] = {"miles": 1, "vector": 3, PAIR: 4, BAG: 6}


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows as features: scalars, vectors, pairs of indices, and bags of indices with weights.

    Attributes:
      miles: Shape (n, 1).
      vector: Shape (n, 3).
      pair: Shape (n, 2), int64.
      bag: n lists of indices.
      tfidf: n lists of weights.
    """

    miles: Any
    vector: Any
    pair: Any
    bag: list[list[int]]
    tfidf: list[list[float]]

    @classmethod
    def drawn(cls, num_rows: int, seed: int = 5) -> "Batch":
        """Returns rows that are not negative, some of whose indices lie outside and some come twice."""
        draw = np.random.default_rng(seed)
        lengths = draw.integers(0, 6, num_rows)
        return cls(
            draw.gamma(2.0, 2.0, (num_rows, 1)).astype(np.float32),
            draw.gamma(1.0, 1.0, (num_rows, 3)).astype(np.float32)
            @ np.float32([[1, 1, 0], [0, 2, 1], [3, 0, 1]]),
            draw.integers(-1, 6, (num_rows, 2)),
            [draw.integers(-2, 8, length).tolist() for length in lengths],
            [draw.gamma(1.0, 1.0, length).astype(np.float32).tolist() for length in lengths],
        )

    @property
    def num_rows(self) -> int:
        """How many rows these are."""
        return len(self.miles)

    def take(self, chosen: slice) -> "Batch":
        """Returns some rows."""
        return Batch(*(getattr(self, field.name)[chosen] for field in dataclasses.fields(self)))

    def rows(self, reduction: Reduction) -> Rows:
        """Returns the inputs of the reduction, counted one by one."""
        numbers = [getattr(self, name) for name in reduction.numeric]
        return Rows.of(
            np.concatenate(numbers, axis=1) if numbers else np.zeros((self.num_rows, 0)),
            np.concatenate([np.zeros((self.num_rows, 0)), *map(self._counts, reduction.one_hot)], axis=1),
        )

    def _counts(self, one: OneHot) -> Any:
        found = np.zeros((self.num_rows, WIDTHS[one]))
        for row in range(self.num_rows):
            indices = getattr(self, one.feature)[row]
            weights = getattr(self, one.weights)[row] if one.weights else np.ones(len(indices))
            for index, weight in zip(indices, weights, strict=True):
                if 0 <= index < WIDTHS[one]:
                    found[row, index] += weight
        return found

    def tensors(self) -> dict[str, Any]:
        """Returns the inputs of `function`: bags as the owner, index and weight of each entry."""
        owners = np.repeat(np.arange(self.num_rows), [len(indices) for indices in self.bag])
        return {
            "miles": self.miles,
            "vector": self.vector,
            "pair": self.pair.astype(np.int64),
            "owners": owners.astype(np.int64),
            "indices": np.array([index for row in self.bag for index in row], np.int64),
            "weights": np.array([weight for row in self.tfidf for weight in row], np.float32),
        }


def fit(reduction: Reduction, rows: Rows, labels: Any = None, batch_size: int = 64) -> Fitted:
    """Returns the reduction fitted to rows that come in batches, as Beam does it."""
    statistics = Statistics(reduction, rows.num_numbers, rows.width)
    for start in range(0, rows.num_rows, batch_size):
        chosen = np.arange(start, min(start + batch_size, rows.num_rows))
        statistics.add(rows.take(chosen), None if labels is None else labels[chosen])
    return core.fit(reduction, statistics, [f"c{i}" for i in range(rows.width)])


def function(fitted: Fitted, reduction: Reduction) -> Any:
    """Returns the TensorFlow function that applies the reduction, with the inputs that it reads."""
    import tensorflow as tf

    from tfx_mobile.dimensionality_reducer.tensor_rows import TensorRows

    def taken(name: str, shape: list[int | None], dtype: Any) -> dict[str, Any]:
        return {name: tf.TensorSpec(shape, dtype, name=name)}

    signature = {
        **taken("miles", [None, 1], tf.float32),
        **taken("vector", [None, 3], tf.float32),
        **taken("pair", [None, 2], tf.int64),
        **taken("owners", [None], tf.int64),
        **taken("indices", [None], tf.int64),
        **taken("weights", [None], tf.float32),
    }
    wanted = {*reduction.numeric, *(["pair"] if PAIR in reduction.inputs else [])}
    if BAG in reduction.inputs:
        wanted |= {"owners", "indices", "weights", "miles"}  # miles say how many rows there are

    @tf.function(input_signature=[{name: signature[name] for name in sorted(wanted)}], autograph=False)  # type: ignore[untyped-decorator]
    def apply(inputs: dict[str, Any]) -> dict[str, Any]:
        features = dict(inputs)
        if BAG in reduction.inputs:
            places = tf.stack([inputs["owners"], tf.zeros_like(inputs["owners"])], axis=1)
            shape = tf.stack([tf.shape(inputs["miles"], tf.int64)[0], tf.constant(9, tf.int64)])
            features["bag"] = tf.SparseTensor(places, inputs["indices"], shape)
            features["tfidf"] = tf.SparseTensor(places, inputs["weights"], shape)
        return {"reduced": fitted.apply(TensorRows(features, reduction, WIDTHS))}

    return apply


def in_tensorflow(apply: Any, batch: Batch) -> Any:
    """Returns what the function makes of the rows."""
    import tensorflow as tf

    (spec,) = apply.input_signature
    given = batch.tensors()
    return apply({name: tf.constant(given[name], spec[name].dtype) for name in spec})["reduced"].numpy()


class Phone:
    """The function as a TFLite file of built-in operations, in the interpreter that phones use.

    Args:
      apply: The function.
      folder: For the SavedModel.
    """

    def __init__(self, apply: Any, folder: Path) -> None:
        import tensorflow as tf

        from tfx_mobile.common.interpreter import TFLiteModel

        module = tf.Module()
        module.apply = apply
        tf.saved_model.save(module, str(folder), {"serving_default": apply.get_concrete_function()})
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        self.content = bytes(converter.convert())
        self._model = TFLiteModel(self.content)
        self._runner = self._model.interpreter.get_signature_runner("serving_default")

    def predict(self, batch: Batch) -> Any:
        """Returns what the file makes of the rows."""
        return self._runner(**self._model.encode(batch.tensors()))["reduced"]
