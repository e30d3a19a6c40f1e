"""A TransformGraph's function, to be copied into other graphs op by op.

Copying keeps in sight which output needs which raw feature, so that the label and unused features can be
left out. Only graphs that TensorFlow 2 exported (TFT's default) are read.
"""

import itertools
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
        self._structured_outputs = tf.nest.pack_sequence_as(
            function.graph.structured_outputs, function.graph.outputs, expand_composites=True
        )

    @property
    def output_names(self) -> set[str]:
        """Names of the transformed features."""
        return set(self._structured_outputs)

    def needed_inputs(self, outputs: Iterable[str]) -> set[str]:
        """Returns the raw features that the named outputs are computed from."""
        owners = {
            tensor.op.name: name
            for name, tensor in zip(self._flat_names(), self._function.inputs, strict=False)
        }
        waiting = [
            tensor.op
            for name in outputs
            for tensor in tf.nest.flatten(self._structured_outputs[name], expand_composites=True)
        ]
        seen = {op.name for op in waiting}
        while waiting:
            sources = {tensor.op for tensor in waiting.pop().inputs}
            waiting += [op for op in sources if op.name not in seen]
            seen |= {op.name for op in sources}
        return {owners[name] for name in seen if name in owners}

    def rebuild_tables(self) -> list[tf.lookup.StaticHashTable]:
        """Puts tables with the same content, held in constants, in the place of the graph's own.

        TFLite's converter initialises such tables; of a table that was loaded from a SavedModel it loses the
        initialiser. Returns the tables, for the caller to keep in its module.
        """
        finders = {
            op.inputs[0].name: op
            for op in self._function.graph.get_operations()
            if op.type == "LookupTableFindV2"
        }
        tables = []
        inner = self._function.graph.internal_captures
        for position, placeholder in enumerate(inner):
            if placeholder.name not in finders:
                continue
            find = finders[placeholder.name]
            keys, values = tf.raw_ops.LookupTableExportV2(
                table_handle=self._captures[position],
                Tkeys=find.get_attr("Tin"),
                Tvalues=find.get_attr("Tout"),
            )
            initializer = tf.lookup.KeyValueTensorInitializer(
                keys.numpy(), values.numpy(), keys.dtype, values.dtype
            )
            table = tf.lookup.StaticHashTable(initializer, default_value=-1)
            self._captures[position] = table.resource_handle
            tables.append(table)
        return tables

    def copy_into_graph(
        self, features: Mapping[str, Any], *, one_value_per_row: bool = False
    ) -> dict[str, Any]:
        """Copies the ops into the graph that is being traced and returns the transformed features.

        Args:
          features: Every raw feature of `signature`; tensors or sparse tensors.
          one_value_per_row: Every sparse feature has one value in each row. Making it dense (`tf.sparse.
            to_dense`) is then to reshape its values, and is copied as that: TFLite has no built-in for
            strings.
        """
        graph = tf.compat.v1.get_default_graph()
        given = tf.nest.flatten(dict(features), expand_composites=True)
        captured = [graph.capture(tensor) for tensor in self._captures]
        names = [tensor.name for tensor in self._function.inputs]
        replaced = self._dense_outputs(given) if one_value_per_row else {}
        outputs = tf.graph_util.import_graph_def(
            self._graph_def,
            input_map=dict(zip(names, [*given, *captured], strict=True)) | replaced,
            return_elements=[tensor.name for tensor in self._function.outputs],
            name="transform",
        )
        for copied, tensor in zip(outputs, self._function.outputs, strict=True):
            copied.set_shape(tensor.shape)
        return dict(
            tf.nest.pack_sequence_as(self._function.structured_outputs, outputs, expand_composites=True)
        )

    def _dense_outputs(self, given: list[Any]) -> dict[str, Any]:
        """Returns, for the output of each op that makes a sparse feature dense, what stands in its place."""
        flat = list(zip(self._function.inputs, given, strict=False))
        values_of = {
            indices.name: (values.name, value) for (indices, _), (values, value) in itertools.pairwise(flat)
        }
        found = {}
        for op in self._function.graph.get_operations():
            if op.type != "SparseToDense":
                continue
            indices, values = _without_identities(op.inputs[0]), _without_identities(op.inputs[2])
            name, value = values_of.get(indices.name, ("", None))
            if name == values.name:
                found[op.outputs[0].name] = tf.reshape(value, [-1, 1])
        return found

    def _flat_names(self) -> list[str]:
        return [
            name
            for name, spec in sorted(self.signature.items())
            for _ in tf.nest.flatten(spec, expand_composites=True)
        ]


def _without_identities(tensor: Any) -> Any:
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor
