"""What a user's functions are told, and a Tuner's best values. Sizes: tests/common/test_embedding.py."""

import json
import re
from typing import Any

import numpy as np
import pytest
from tests.conftest import Trips

from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.pruning_trainer.config import SplitArgs, TrainerConfig
from tfx_mobile.pruning_trainer.context import BuildContext, tuner_values

RULE = "A Tuner's best hyperparameters must be the JSON of KerasTuner's HyperParameters.get_config()"


@pytest.fixture
def ctx(trips: Trips) -> BuildContext:
    import tensorflow_transform as tft

    output = tft.TFTransformOutput(str(trips.graph_folder))
    spec = output.transformed_feature_spec()
    return BuildContext(
        feature_spec={name: feature for name, feature in spec.items() if name != "fare"},
        label_key="fare",
        transform_output=output,
        hyperparameters={"units": 16},
        splits={split: (f"{trips.transformed_folder}/Split-{split}/*",) for split in ("train", "eval")},
    )


def fares(batches: Any) -> Any:
    return np.concatenate([label.numpy().ravel() for _, label in batches])


@pytest.mark.pipeline
def test_the_schema_names_every_transformed_feature(ctx: BuildContext, trips: Trips) -> None:
    assert {feature.name for feature in ctx.schema.feature} == set(trips.transformed)


@pytest.mark.pipeline
def test_a_dataset_is_one_epoch_of_a_split_without_the_label_among_the_features(
    ctx: BuildContext, trips: Trips
) -> None:
    batches = list(ctx.dataset("eval", 100))
    assert [len(label) for _, label in batches] == [100] * 6 + [40]
    assert set(batches[0][0]) == set(ctx.feature_spec)
    np.testing.assert_array_equal(fares(batches), trips.transformed["fare"].ravel())
    given = np.concatenate([features["miles"].numpy() for features, _ in batches])
    np.testing.assert_array_equal(given, trips.transformed["miles"])


@pytest.mark.pipeline
def test_a_split_to_train_on_has_a_new_order_in_each_epoch_and_the_same_in_each_run(
    ctx: BuildContext, trips: Trips
) -> None:
    in_order = trips.transformed["fare"].ravel()
    twice = fares(ctx.dataset("train", 100).repeat(2))
    first, second = twice[:640], twice[640:]
    np.testing.assert_array_equal(np.sort(first), np.sort(in_order))
    np.testing.assert_array_equal(np.sort(second), np.sort(in_order))
    assert (first != in_order).any()
    assert (first != second).any()
    np.testing.assert_array_equal(fares(ctx.dataset("train", 100).repeat(2)), twice)
    np.testing.assert_array_equal(fares(ctx.dataset("train", 100, shuffle_rows=0)), in_order)


@pytest.mark.pipeline
def test_an_input_fn_can_be_one_line_on_top_of_the_dataset(ctx: BuildContext, trips: Trips) -> None:
    from tfx_mobile.pruning_trainer.keras_input import user_data

    def input_fn(ctx: BuildContext, split: str, batch_size: int) -> Any:
        return ctx.dataset(split, batch_size).map(lambda features, label: (features, label * 2))

    config = TrainerConfig(
        label_key="fare", input_fn="a.b", build_model="a.b", batch_size=100, eval_args=SplitArgs(("eval",))
    )
    data = user_data(ctx, input_fn, config)
    assert data.steps_per_epoch == 7
    np.testing.assert_array_equal(fares(data.validation()), trips.transformed["fare"].ravel() * 2)
    unbroken = fares(data.train(0).take(14))
    np.testing.assert_array_equal(fares(data.train(9).take(5)), unbroken[640 + 200 :])


@pytest.mark.pipeline
def test_a_split_that_does_not_exist_is_refused(ctx: BuildContext) -> None:
    message = "A split must be one of the Examples'; got 'test'. There are eval, train."
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        ctx.dataset("test", 10)


@pytest.mark.pipeline
def test_a_tuners_best_values_are_read_as_keras_tuner_writes_them() -> None:
    import keras_tuner

    found = keras_tuner.HyperParameters()
    found.Int("units", 16, 64, step=16, default=32)
    found.Choice("activation", ["relu", "tanh"])
    found.Float("learning_rate", 1e-4, 1e-1, sampling="log", default=1e-3)
    found.Boolean("dropout")
    assert tuner_values(json.dumps(found.get_config())) == {
        "units": 32,
        "activation": "relu",
        "learning_rate": 1e-3,
        "dropout": False,
    }


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("units: 3", "text that is not JSON (Expecting value: line 1 column 1 (char 0))"),
        ("[1, 2]", "JSON of a list"),
        ('{"space": [], "units": 3}', "no 'values' by name among space, units"),
        ('{"values": [3]}', "no 'values' by name among values"),
        ("{}", "no 'values' by name among nothing"),
    ],
)
def test_what_no_tuner_wrote_is_refused(text: str, got: str) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(f'{RULE}; got {got}.')}$"):
        tuner_values(text)
