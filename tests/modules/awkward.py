"""Artifacts that are awkward on purpose."""

from pathlib import Path
from typing import Any


def empty_examples(folder: Path) -> Any:
    """Returns an Examples artifact whose only split, 'train', has a file and no rows."""
    import tensorflow as tf
    from tfx.types import artifact_utils, standard_artifacts

    (folder / "Split-train").mkdir(parents=True)
    with tf.io.TFRecordWriter(str(folder / "Split-train" / "rows-00000-of-00001.gz"), "GZIP"):
        pass
    artifact = standard_artifacts.Examples()
    artifact.uri = str(folder)
    artifact.split_names = artifact_utils.encode_split_names(["train"])
    return artifact
