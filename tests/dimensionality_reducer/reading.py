"""Reading what a run of the reducer wrote, and spoiling what it reads."""

from typing import Any

import numpy as np


def output_of(artifact: Any) -> Any:
    """Returns a TransformGraph artifact as TFT reads it."""
    import tensorflow_transform as tft

    return tft.TFTransformOutput(artifact.uri)


def parse(records: list[bytes], spec: Any) -> dict[str, Any]:
    """Returns serialised rows as dense or sparse tensors."""
    import tensorflow as tf

    return dict(tf.io.parse_example(records, spec))


def dense(value: Any) -> Any:
    """Returns a dense or sparse tensor as an array."""
    import tensorflow as tf

    return tf.sparse.to_dense(value).numpy() if isinstance(value, tf.SparseTensor) else value.numpy()


def read_all(examples: Any, split: str) -> list[bytes]:
    """Returns the serialised rows of a split."""
    import tensorflow as tf

    files = sorted(tf.io.gfile.glob(f"{examples.uri}/Split-{split}/*"))
    return list(tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator())


def columns_of(examples: Any, graph: Any, split: str) -> dict[str, Any]:
    """Returns the features of a split as arrays, rows in the order of their labels."""
    found = parse(read_all(examples, split), output_of(graph).transformed_feature_spec())
    order = found["fare"].numpy()[:, 0].argsort()
    return {name: dense(value)[order] for name, value in found.items()}


def graph_columns(graph: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """Returns what a graph makes of raw rows as arrays, rows in the order of their labels."""
    made = output_of(graph).transform_features_layer()(tensors)
    order = made["fare"].numpy()[:, 0].argsort()
    return {name: dense(value)[order] for name, value in made.items()}


def canonical(records: list[bytes]) -> list[bytes]:
    """Returns the rows with their features in one order, which the encoder does not promise."""
    import tensorflow as tf

    found = (tf.train.Example.FromString(record) for record in records)
    return sorted(example.SerializeToString(deterministic=True) for example in found)


def spoilt(records: list[bytes], feature: str, value: float, count: int) -> list[bytes]:
    """Returns the rows with the first value of a feature replaced in the first `count` of them."""
    import tensorflow as tf

    found = [tf.train.Example.FromString(record) for record in records]
    for example in found[:count]:
        example.features.feature[feature].float_list.value[0] = value
    return [example.SerializeToString() for example in found]


def beside(columns: dict[str, Any], names: tuple[str, ...]) -> Any:
    """Returns numeric features side by side, shape (n, d), float64."""
    return np.concatenate([columns[name].reshape(len(columns[name]), -1) for name in names], axis=1).astype(
        np.float64
    )
