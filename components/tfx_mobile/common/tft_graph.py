"""A TransformGraph's function, to be copied into other graphs op by op.

Copying keeps in sight which output needs which raw feature, so that the label and unused features can be
left out. Only graphs that TensorFlow 2 exported (TFT's default) are read.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from tfx_mobile.common.errors import DataError


class TransformFunction:
    """The function raw features -> transformed features of a TransformGraph.

    Args:
      transform_output: Of the TransformGraph artifact.

    Attributes:
      signature: Raw feature name to its tensor spec, leading batch dimension included.
      trackable: Owner of the graph's tables and files; keep it in the module that copies the graph.
      outputs: Transformed feature name to its tensor in the graph; sparse tensors as such.
      graph: The graph that the outputs are in.
      library: The functions that the graph's branches and loops call, by name.

    Raises:
      DataError: The graph was exported by TensorFlow 1 (`force_tf_compat_v1`).
    """

    def __init__(self, transform_output: tft.TFTransformOutput) -> None:
        folder = transform_output.transform_savedmodel_dir
        self.trackable = tf.saved_model.load(folder)
        if not hasattr(self.trackable, "transform_fn"):
            raise DataError(
                f"The TransformGraph must be exported by TensorFlow 2; the one at {folder} is from "
                "TensorFlow 1. Set force_tf_compat_v1=False in Transform."
            )
        function = self.trackable.transform_fn
        if hasattr(function, "concrete_functions"):
            function = function.concrete_functions[0]
        self._function = function
        self._captures = list(function.captured_inputs)
        self._graph_def = function.graph.as_graph_def()
        self.signature: dict[str, Any] = function.structured_input_signature[0][0]
        self.outputs: dict[str, Any] = tf.nest.pack_sequence_as(
            function.graph.structured_outputs, function.graph.outputs, expand_composites=True
        )
        self.graph: tf.Graph = function.graph
        self.library = {entry.signature.name: entry for entry in self._graph_def.library.function}

    @property
    def output_names(self) -> set[str]:
        """Names of the transformed features."""
        return set(self.outputs)

    def needed_inputs(self, outputs: Iterable[str]) -> set[str]:
        """Returns the raw features that the named outputs are computed from."""
        flat = tf.nest.flatten([self.outputs[name] for name in outputs], expand_composites=True)
        return self.inputs_of([tensor.op for tensor in flat])

    def inputs_of(self, ops: Iterable[Any]) -> set[str]:
        """Returns the raw features that some ops of the graph are computed from."""
        owners = {
            tensor.op.name: name
            for name, tensor in zip(self._flat_names(), self._function.inputs, strict=False)
        }
        return {owners[op.name] for op in ancestors(ops) if op.name in owners}

    def bind(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what the graph's inputs stand for, by tensor name: these features, and the captures.

        Args:
          features: Raw features by name, each as it is nested in `signature`: a tensor's stand-in, or the
            three of a sparse tensor (indices, values, dense shape).
        """
        parts = {
            name: list(value) if isinstance(value, tuple) else [value] for name, value in features.items()
        }
        names = self._flat_names()
        bound = {}
        for name, tensor in zip(names, self._function.inputs, strict=False):
            if name in parts:
                bound[tensor.name] = parts[name].pop(0)
        captures = self._function.inputs[len(names) :]
        return bound | {t.name: value for t, value in zip(captures, self._captures, strict=True)}

    def copy_into_graph(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """Copies the ops into the graph that is being traced and returns the transformed features.

        Args:
          features: Every raw feature of `signature`; tensors or sparse tensors.
        """
        graph = tf.compat.v1.get_default_graph()
        given = tf.nest.flatten(dict(features), expand_composites=True)
        captured = [graph.capture(tensor) for tensor in self._captures]
        names = [tensor.name for tensor in self._function.inputs]
        outputs = tf.graph_util.import_graph_def(
            self._graph_def,
            input_map=dict(zip(names, [*given, *captured], strict=True)),
            return_elements=[tensor.name for tensor in self._function.outputs],
            name="transform",
        )
        for copied, tensor in zip(outputs, self._function.outputs, strict=True):
            copied.set_shape(tensor.shape)
        return dict(
            tf.nest.pack_sequence_as(self._function.structured_outputs, outputs, expand_composites=True)
        )

    def _flat_names(self) -> list[str]:
        return [
            name
            for name, spec in sorted(self.signature.items())
            for _ in tf.nest.flatten(spec, expand_composites=True)
        ]


def ancestors(ops: Iterable[Any]) -> list[Any]:
    """Returns the ops and all they are computed from, each after its inputs."""
    found: dict[str, Any] = {}
    waiting = [(op, False) for op in ops]
    while waiting:
        op, inputs_are_there = waiting.pop()
        if op.name in found:
            continue
        if inputs_are_there:
            found[op.name] = op
        else:
            waiting += [(op, True), *((tensor.op, False) for tensor in op.inputs)]
    return list(found.values())
