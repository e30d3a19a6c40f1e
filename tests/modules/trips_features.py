"""What conftest's trips are made of, as a pipeline's own code: Transform's workers import it by name."""

from typing import Any


def feature_spec() -> dict[str, Any]:
    """Returns the raw features."""
    import tensorflow as tf

    return {
        "latitude": tf.io.FixedLenFeature([1], tf.float32),
        "epoch_s": tf.io.FixedLenFeature([1], tf.int64),
        "miles": tf.io.FixedLenFeature([1], tf.float32),
        "company": tf.io.VarLenFeature(tf.string),
        "fare": tf.io.FixedLenFeature([1], tf.float32),
    }


def preprocessing_fn(inputs: dict[str, Any]) -> dict[str, Any]:
    """Returns the transformed features."""
    import tensorflow as tf
    import tensorflow_transform as tft

    given = inputs["company"]  # a batch without any company has no column for one
    company = tf.SparseTensor(given.indices, given.values, [given.dense_shape[0], 1])
    company = tf.sparse.to_dense(company, default_value="")
    return {
        "latitude_z": tft.scale_to_z_score(inputs["latitude"]),
        "date_z": tft.scale_to_z_score(tf.cast(inputs["epoch_s"], tf.float32)),
        "miles_z": tft.scale_to_z_score(inputs["miles"]),
        "miles": inputs["miles"],
        "company_id": tft.compute_and_apply_vocabulary(company, default_value=4, vocab_filename="company"),
        "company_length": tf.cast(tf.strings.length(company), tf.float32),
        "miles_bucket": tft.bucketize(inputs["miles"], num_buckets=4),
        "fare": inputs["fare"],
    }
