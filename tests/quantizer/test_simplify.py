"""What is known beforehand is left out of a file, and nothing else."""

from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tfx_mobile.common import tflite_objects
from tfx_mobile.quantizer.join import join
from tfx_mobile.quantizer.simplify import number_tables, simplify

from .conftest import rows, run

pytestmark = pytest.mark.pipeline


def converted(function: Any, folder: Any, **specs: Any) -> bytes:
    """Returns a function as a TFLite file, as TensorFlow's converter makes it."""
    import tensorflow as tf

    module = tf.Module()
    inputs = {name: tf.TensorSpec(shape, dtype, name=name) for name, (shape, dtype) in specs.items()}
    traced = tf.function(function, autograph=False).get_concrete_function(**inputs)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": traced})
    return bytes(tf.lite.TFLiteConverter.from_saved_model(str(folder)).convert())


def operators(content: bytes) -> list[int]:
    model = tflite_objects.read(content)
    return [model.operatorCodes[one.opcodeIndex].builtinCode for one in model.subgraphs[0].operators]


@pytest.fixture(scope="module")
def z_scores(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A z-score as TFT writes it, of a feature that varies and of one that does not."""
    import tensorflow as tf

    def z_score(x: Any, mean: float, deviation: float) -> Any:
        varies = tf.cast(
            tf.zeros_like(x) + tf.cast(tf.not_equal(tf.constant(deviation), 0), x.dtype), tf.bool
        )
        return tf.where(varies, (x - mean) / deviation if deviation else x, x - mean)

    def function(x: Any) -> dict[str, Any]:
        x = tf.reshape(x, [-1, 1])
        return {"z": z_score(x, 2.0, 4.0) + 1.0, "constant": z_score(x, 7.0, 0.0) * 3.0}

    return converted(function, tmp_path_factory.mktemp("z"), x=([None], tf.float32))


def test_the_choice_of_a_z_score_is_made_beforehand(z_scores: bytes) -> None:
    left_out = {
        schema.BuiltinOperator.SELECT_V2,
        schema.BuiltinOperator.ZEROS_LIKE,
        schema.BuiltinOperator.CAST,
    }
    assert left_out <= set(operators(z_scores))
    after = simplify(z_scores)
    assert not left_out & set(operators(after))
    assert len(after) < len(z_scores)
    columns = {"x": np.array([2.0, 7.0, np.nan, np.inf, -1e30, 0.0], np.float32)}
    for name, values in run(z_scores, columns).items():
        np.testing.assert_array_equal(run(after, columns)[name], values)
    np.testing.assert_array_equal(run(after, {"x": columns["x"][:2]})["z"], [[1.0], [2.25]])
    np.testing.assert_array_equal(run(after, {"x": columns["x"][:2]})["constant"], [[-15.0], [0.0]])


def test_no_tensor_is_left_that_nothing_uses(z_scores: bytes) -> None:
    graph = tflite_objects.read(simplify(z_scores)).subgraphs[0]
    used = {int(i) for one in graph.operators for i in (*one.inputs, *one.outputs)}
    assert used | {int(i) for i in graph.inputs} == set(range(len(graph.tensors)))


def test_a_choice_that_depends_on_the_rows_stays(tmp_path: Any) -> None:
    import tensorflow as tf

    def function(x: Any) -> dict[str, Any]:
        unknown = tf.cast(x + tf.cast(tf.not_equal(tf.constant(4.0), 0), x.dtype), tf.bool)
        return {"y": tf.where(unknown, x * 2.0, x - 1.0) + 1.0}

    content = converted(function, tmp_path / "m", x=([None, 1], tf.float32))
    assert simplify(content) == content
    found = run(content, {"x": np.array([[-1.0], [3.0]], np.float32)})["y"]
    np.testing.assert_array_equal(found, [[-1.0], [7.0]])


def test_a_choice_that_widens_its_branch_stays(tmp_path: Any) -> None:
    """The condition has more columns than what is chosen: the result has them too."""
    import tensorflow as tf

    def function(x: Any) -> dict[str, Any]:
        yes = tf.cast(tf.zeros_like(x) + 1.0, tf.bool)
        return {"y": tf.where(yes, x[:, :1] * 2.0, x[:, :1]) + 1.0}

    content = converted(function, tmp_path / "m", x=([None, 3], tf.float32))
    columns = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
    assert run(simplify(content), columns)["y"].shape == (2, 3)
    np.testing.assert_array_equal(run(simplify(content), columns)["y"], run(content, columns)["y"])


def test_a_reshape_to_another_shape_stays_and_one_to_the_same_goes(tmp_path: Any) -> None:
    import tensorflow as tf

    def function(x: Any) -> dict[str, Any]:
        same = tf.raw_ops.Reshape(tensor=tf.abs(x), shape=[-1, 4])
        return {"y": tf.reshape(tf.reshape(same * 2.0, [-1, 2, 2]) + 1.0, [-1, 4]) * 3.0}

    content = converted(function, tmp_path / "m", x=([None, 4], tf.float32))
    after = simplify(content)
    columns = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}
    np.testing.assert_array_equal(run(after, columns)["y"], run(content, columns)["y"])
    reshape = schema.BuiltinOperator.RESHAPE
    assert 0 < operators(after).count(reshape) <= operators(content).count(reshape)


@pytest.mark.parametrize("back", ["float32", "int8", "while", "own_table", "lstm"])
def test_joined_files_compute_the_same_to_the_bit(back: str, parts: dict[str, bytes]) -> None:
    joined = join(parts["front"], parts[back])
    count = 1 if back == "lstm" else 9
    for name, values in run(joined, rows(count)).items():
        np.testing.assert_array_equal(run(simplify(joined), rows(count))[name], values)


def test_tables_have_the_same_numbers_whatever_the_converter_gave_them(parts: dict[str, bytes]) -> None:
    joined = join(parts["front"], parts["own_table"])
    model = tflite_objects.read(joined)
    for graph in model.subgraphs:
        for one in graph.operators:
            if model.operatorCodes[one.opcodeIndex].builtinCode == schema.BuiltinOperator.HASHTABLE:
                one.builtinOptions.tableId ^= 12345
    assert number_tables(tflite_objects.write(model)) == number_tables(joined)
    for name, values in run(joined, rows(9)).items():
        np.testing.assert_array_equal(run(number_tables(joined), rows(9))[name], values)
    assert number_tables(parts["float32"]) == parts["float32"]


def test_simplifying_again_changes_nothing(z_scores: bytes) -> None:
    assert simplify(simplify(z_scores)) == simplify(z_scores)
