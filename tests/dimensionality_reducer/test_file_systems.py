"""A run whose every path has a scheme, as on a bucket.

The bucket is TensorFlow's in-memory file system, made known to Beam and TFX as cloud file systems are.
"""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.dimensionality_reducer.reading import columns_of, output_of

from tfx_mobile.dimensionality_reducer.config import PCA, OneHot

pytestmark = pytest.mark.pipeline

SCHEME = "ram"


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of an empty bucket."""
    import tensorflow as tf
    from apache_beam.io import filesystem
    from tfx.dsl.io import filesystem_registry
    from tfx.dsl.io.plugins import tensorflow_gfile

    class Upload(io.BytesIO):
        """A file that is there once it is closed, as on a bucket."""

        mode = "wb"

        def __init__(self, path: str) -> None:
            super().__init__()
            self._path = path

        def close(self) -> None:
            if not self.closed:
                with tf.io.gfile.GFile(self._path, "wb") as stream:
                    stream.write(self.getvalue())
            super().close()

    class RamFileSystem(filesystem.FileSystem):
        """Beam's interface over tf.io.gfile."""

        @classmethod
        def scheme(cls) -> str:
            return SCHEME

        def join(self, basepath: str, *paths: str) -> str:
            return "/".join([basepath.rstrip("/"), *paths])

        def split(self, path: str) -> tuple[str, str]:
            head, _, tail = path.rpartition("/")
            return head, tail

        def mkdirs(self, path: str) -> None:
            tf.io.gfile.makedirs(path)

        def has_dirs(self) -> bool:
            return False

        def _list(self, dir_or_prefix: str) -> Iterator[Any]:
            for folder, _, names in tf.io.gfile.walk(dir_or_prefix.rpartition("/")[0]):
                for name in names:
                    if f"{folder}/{name}".startswith(dir_or_prefix):
                        yield self.metadata(f"{folder}/{name}")

        def create(
            self, path: str, mime_type: str = "application/octet-stream", compression_type: Any = None
        ) -> Any:
            return self._open(path, "wb", compression_type)

        def open(
            self, path: str, mime_type: str = "application/octet-stream", compression_type: Any = None
        ) -> Any:
            return self._open(path, "rb", compression_type)

        def _open(self, path: str, mode: str, compression_type: Any) -> Any:
            kinds = filesystem.CompressionTypes
            kind = (
                kinds.detect_compression_type(path)
                if compression_type in (None, kinds.AUTO)
                else compression_type
            )
            stream = Upload(path) if mode == "wb" else tf.io.gfile.GFile(path, mode)
            return stream if kind == kinds.UNCOMPRESSED else filesystem.CompressedFile(stream, kind)

        def copy(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
            for one, other in zip(source_file_names, destination_file_names, strict=True):
                tf.io.gfile.copy(one, other, overwrite=True)

        def rename(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
            for one, other in zip(source_file_names, destination_file_names, strict=True):
                tf.io.gfile.rename(one, other, overwrite=True)

        def exists(self, path: str) -> bool:
            return bool(tf.io.gfile.exists(path))

        def size(self, path: str) -> int:
            return int(tf.io.gfile.stat(path).length)

        def last_updated(self, path: str) -> float:
            return float(tf.io.gfile.stat(path).mtime_nsec) / 1e9

        def checksum(self, path: str) -> str:
            return str(self.size(path))

        def metadata(self, path: str) -> Any:
            return filesystem.FileMetadata(path, self.size(path))

        def delete(self, paths: list[str]) -> None:
            for path in paths:
                (tf.io.gfile.rmtree if tf.io.gfile.isdir(path) else tf.io.gfile.remove)(path)

    class RamFilesystem(tensorflow_gfile.TensorflowFilesystem):
        """TFX's interface over tf.io.gfile."""

        SUPPORTED_SCHEMES = [f"{SCHEME}://"]  # noqa: RUF012

        @staticmethod
        def listdir(path: str) -> list[str]:
            """Returns the names with a slash behind folders, as those of Google Cloud Storage have."""
            names = tf.io.gfile.listdir(path)
            return [f"{name}/" if tf.io.gfile.isdir(f"{path}/{name}") else name for name in names]

    filesystem_registry.DEFAULT_FILESYSTEM_REGISTRY.register(RamFilesystem, priority=0)
    address = f"{SCHEME}://bucket"
    tf.io.gfile.makedirs(address)
    yield address
    tf.io.gfile.rmtree(address)


def copy_tree(source: str, target: str) -> None:
    import tensorflow as tf

    for folder, _, names in tf.io.gfile.walk(source):
        there = folder.replace(source, target, 1)
        tf.io.gfile.makedirs(there)
        for name in names:
            tf.io.gfile.copy(f"{folder}/{name}", f"{there}/{name}", overwrite=True)


def test_a_run_on_a_bucket_gives_what_a_run_on_a_disk_gives(source: Any, bucket: str) -> None:
    from tfx.types import standard_artifacts

    reductions = [
        PCA(inputs=("miles_z", "latitude_z", "powers"), output="place", n_components=3),
        PCA(inputs=(OneHot("word_ids"),), output="words", n_components=2, keep_inputs=True),
    ]
    wanted = source.run(*reductions)
    examples, graph = standard_artifacts.Examples(), standard_artifacts.TransformGraph()
    examples.copy_from(source.examples)
    examples.uri, graph.uri = f"{bucket}/in/examples", f"{bucket}/in/graph"
    copy_tree(source.examples.uri, examples.uri)
    copy_tree(source.transform_graph.uri, graph.uri)
    moved = source.__class__(source.raw, examples, graph, source.schema, source.new_folder)
    found = moved.run(*reductions, folder=f"{bucket}/out")
    assert found.examples.uri.startswith("ram://")
    assert output_of(found.transform_graph).transformed_feature_spec().keys() == (
        output_of(wanted.transform_graph).transformed_feature_spec().keys()
    )
    ours, theirs = (columns_of(run.examples, run.transform_graph, "eval") for run in (found, wanted))
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name])
