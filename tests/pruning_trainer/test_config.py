"""Settings of a training: what is refused when the pipeline is built, and canonical JSON."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.pruning_trainer.config import (
    Allocation,
    Blocks,
    Clustering,
    ConstantSparsity,
    Criterion,
    Layers,
    MByN,
    PolynomialDecay,
    Pruning,
    QuantizationAware,
    Resources,
    Rewinding,
    SplitArgs,
    TrainerConfig,
    Units,
    split_args,
)

RISING = "sparsities must start at 0 and rise; got "


def config(**changed: Any) -> TrainerConfig:
    return TrainerConfig(**({"build_model": "taxi.model.build_model", "label_key": "fare"} | changed))


@pytest.mark.parametrize("setting", ["build_model", "input_fn"])
@pytest.mark.parametrize("name", ["build_model", "taxi.", ".build_model", "taxi.model.2", "taxi model"])
def test_a_function_that_is_not_a_dotted_name_is_refused(name: str, setting: str) -> None:
    with pytest.raises(
        ConfigError,
        match=re.escape(
            f"{setting} must be the dotted name of a function, such as 'taxi_fare.model.{setting}'; "
            f"got {name!r}."
        ),
    ):
        config(**{setting: name})


def test_a_function_of_a_module_file_has_no_dots() -> None:
    message = "build_model must be the name of a function in module_file; got 'taxi.build_model'."
    with pytest.raises(ConfigError, match=re.escape(message)):
        config(module_source="x = 1", build_model="taxi.build_model")


def test_the_user_modules_are_those_of_every_dotted_name() -> None:
    found = config(
        build_model="a.b.c",
        input_fn="d.e",
        pruning=Pruning(layers=Layers(predicate="f.g")),
        clustering=Clustering(layers=Layers(predicate="a.b.h")),
        quantization_aware=QuantizationAware(quantize_configs={"*": "i.j.K"}),
    ).user_modules
    assert found == ("a.b", "d", "f", "i.j")


def test_functions_of_a_module_file_have_no_module_to_fingerprint() -> None:
    assert config(module_source="x = 1", build_model="build").user_modules == ()


def test_an_empty_label_key_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=re.escape("label_key must name the label's feature; got an empty name.")
    ):
        config(label_key="")


@pytest.mark.parametrize("sparsities", [(0.0, 1.0), (0.0, 75.0), (-0.5, 0.0), (0.0, float("nan"))])
def test_a_sparsity_that_is_no_share_is_refused(sparsities: tuple[float, ...]) -> None:
    with pytest.raises(
        ConfigError,
        match=re.escape(f"sparsities must be in [0, 1); got {list(sparsities)}. 0.75 means 75 %."),
    ):
        config(sparsities=sparsities)


@pytest.mark.parametrize("sparsities", [(), (0.5,), (0.5, 0.75), (0.0, 0.75, 0.5), (0.0, 0.5, 0.5)])
def test_sparsities_that_do_not_rise_from_zero_are_refused(sparsities: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{RISING}{list(sparsities)}.")):
        config(sparsities=sparsities)


@pytest.mark.parametrize("name", ["epochs", "patience", "fine_tune_epochs", "batch_size"])
def test_a_count_below_one_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{name} must be at least 1; got 0.")):
        config(**{name: 0})


@pytest.mark.parametrize("share", [0.0, 0.51, -0.1, float("nan")])
def test_a_validation_share_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(
        ConfigError, match=re.escape(f"validation_fraction must be in (0, 0.5]; got {share}.")
    ):
        config(validation_fraction=share)


@pytest.mark.parametrize("budget", [-0.01, float("nan")])
def test_a_budget_below_zero_is_refused(budget: float) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"max_increase_fraction must be >= 0; got {budget}.")):
        config(max_increase_fraction=budget)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match=re.escape("seed must be between 0 and 4294967295; got -1.")):
        config(seed=-1)


def test_settings_survive_a_round_trip_through_json() -> None:
    wanted = config(sparsities=(0.0, 0.9), hyperparameters={"units": 8.0})
    assert TrainerConfig.from_json(wanted.to_json()) == wanted


def test_equal_settings_give_equal_bytes() -> None:
    one = config(hyperparameters={"a": 1.0, "b": 2.0})
    other = config(hyperparameters={"b": 2.0, "a": 1.0})
    assert one.to_json() == other.to_json()


def test_an_unknown_setting_is_refused_by_name() -> None:
    text = config().to_json().replace('"epochs"', '"epoch"')
    with pytest.raises(ConfigError, match=re.escape("TrainerConfig has no setting 'epoch'; it has ")):
        TrainerConfig.from_json(text)


EVERYTHING = {
    "pruning": Pruning(
        structure=Blocks(2, 8),
        schedule=ConstantSparsity(begin_step=3, end_step=9, frequency=2),
        criterion=Criterion.FISHER,
        allocation=Allocation.SENSITIVITY,
        layers=Layers(names=("hidden_*",), types=("Dense",), exclude=("hidden_9",), skip_last=True),
    ),
    "rewinding": Rewinding(step=20, epochs=3),
    "clustering": Clustering(number_of_clusters=8),
    "quantization_aware": QuantizationAware(quantize_configs={"mine": "a.b.Config"}),
    "train_args": SplitArgs(("a", "b"), 100),
    "resources": Resources(num_threads=2, checkpoint_seconds=0.5),
    "hyperparameters": {"units": 8, "kind": "wide", "rate": 0.5, "norm": True},
}


def test_every_kind_of_setting_survives_a_round_trip_through_json() -> None:
    wanted = config(**EVERYTHING)
    assert TrainerConfig.from_json(wanted.to_json()) == wanted


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: PolynomialDecay(initial_sparsity_fraction=1.0),
            "initial_sparsity_fraction must be in [0, 1) or None; got 1.0.",
        ),
        (lambda: PolynomialDecay(power=0.0), "power must be above 0; got 0.0."),
        (lambda: PolynomialDecay(begin_step=-1), "begin_step must be >= 0; got -1."),
        (
            lambda: ConstantSparsity(begin_step=5, end_step=4),
            "end_step must not be before begin_step; got 4, before 5.",
        ),
        (lambda: ConstantSparsity(frequency=0), "frequency must be at least 1; got 0."),
        (
            lambda: Blocks(1, 1),
            "A block must have at least two weights; got 1x1. Leave `structure` out to prune single weights.",
        ),
        (lambda: MByN(4, 4), "m_by_n must be 0 < m < n, such as 2 of 4; got 4 of 4."),
        (lambda: Units(min_units=0), "min_units must be at least 1; got 0."),
        (
            lambda: Layers(names=()),
            "names must have at least one pattern; got none. '*' means every layer.",
        ),
        (lambda: Layers(min_weights=0), "min_weights must be at least 1; got 0."),
        (
            lambda: Layers(predicate="wide"),
            "predicate must be the dotted name of a function, such as 'taxi_fare.model.predicate'; got "
            "'wide'.",
        ),
        (lambda: Pruning(saliency_batches=0), "saliency_batches must be at least 1; got 0."),
        (
            lambda: Pruning(structure=MByN(), allocation=Allocation.SENSITIVITY),
            "allocation must be UNIFORM with MByN; got 'sensitivity'.",
        ),
        (
            lambda: Pruning(structure=Units(), allocation=Allocation.SENSITIVITY),
            "allocation must be UNIFORM with Units; got 'sensitivity'.",
        ),
        (lambda: Rewinding(step=-1), "step must be >= 0; got -1."),
        (lambda: Rewinding(epochs=0), "epochs must be at least 1 or None; got 0."),
        (lambda: Clustering(number_of_clusters=1), "number_of_clusters must be at least 2; got 1."),
        (lambda: Clustering(learning_rate=0.0), "learning_rate must be above 0; got 0.0."),
        (lambda: QuantizationAware(epochs=0), "epochs must be at least 1; got 0."),
        (
            lambda: QuantizationAware(quantize_configs={"*": "Config"}),
            "quantize_configs must be the dotted name of a function, such as "
            "'taxi_fare.model.quantize_configs'; got 'Config'.",
        ),
        (lambda: SplitArgs(num_steps=-1), "num_steps must be >= 0, where 0 is no limit; got -1."),
        (lambda: SplitArgs(("a", "a")), "splits must be different names; got ['a', 'a']."),
        (lambda: Resources(num_threads=-1), "num_threads must be >= 0; got -1."),
        (lambda: Resources(checkpoint_seconds=float("nan")), "checkpoint_seconds must be >= 0; got nan."),
        (lambda: Resources(shuffle_rows=0), "shuffle_rows must be at least 1; got 0."),
        (
            lambda: config(sparsities=(0.0, 0.75), pruning=Pruning(structure=MByN())),
            "2 of 4 zeros is a sparsity of 0.5; sparsities must be (0, 0.5); got [0.0, 0.75].",
        ),
        (
            lambda: config(rewinding=Rewinding(), pruning=Pruning(structure=Units())),
            "Rewinding must have masks; Units removes shapes. Leave rewinding out.",
        ),
        (
            lambda: config(eval_args=SplitArgs(("train",))),
            "A split must be trained on or validated on, not both; got train twice. Without splits in "
            "eval_args, rows are held out of the train split.",
        ),
    ],
)
def test_a_setting_outside_its_range_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        make()


def test_two_of_four_is_a_rung_of_a_half() -> None:
    assert config(sparsities=(0.0, 0.5), pruning=Pruning(structure=MByN())).sparsities[-1] == 0.5


@pytest.mark.parametrize("given", [{"splits": ["a"], "num_steps": 7}, SplitArgs(("a",), 7)])
def test_splits_and_steps_may_be_a_dict_or_settings(given: Any) -> None:
    assert split_args(given) == SplitArgs(("a",), 7)


def test_no_splits_and_steps_is_no_limit() -> None:
    assert split_args(None) == SplitArgs((), 0)


@pytest.mark.pipeline
def test_splits_and_steps_may_be_tfx_protos() -> None:
    from tfx.v1.proto import EvalArgs, TrainArgs

    assert split_args(TrainArgs(splits=["a"], num_steps=7)) == SplitArgs(("a",), 7)
    assert split_args(EvalArgs()) == SplitArgs((), 0)


def test_splits_and_steps_of_another_sort_are_refused() -> None:
    message = (
        "train_args and eval_args must be TFX's TrainArgs and EvalArgs or a dict with 'splits' and "
        "'num_steps'; got int."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        split_args(3)
    with pytest.raises(ConfigError, match=re.escape("SplitArgs has no setting 'steps'; it has ")):
        split_args({"steps": 3})


def test_a_share_of_m_by_n_may_be_rounded() -> None:
    pruning = Pruning(structure=MByN(1, 3))
    assert config(sparsities=(0.0, 0.333333), pruning=pruning).sparsities == (0.0, 0.333333)


def test_sparsities_that_would_share_a_name_are_refused() -> None:
    message = (
        "sparsities must differ in the first six digits of their percentages; got [0.0, 0.5, 0.500000001]."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        config(sparsities=(0.0, 0.5, 0.500000001))


def test_an_input_fn_is_validated_on_the_split_eval_unless_it_is_said_otherwise() -> None:
    assert config().eval_splits == ()
    assert config(input_fn="my.input_fn").eval_splits == ("eval",)
    assert config(input_fn="my.input_fn", eval_args=SplitArgs(splits=("valid",))).eval_splits == ("valid",)


def test_settings_that_no_weight_depends_on_are_at_their_defaults() -> None:
    changed = config(
        max_increase_fraction=0.5,
        resources=Resources(
            max_memory_mib=9, checkpoint_seconds=1.0, checkpoint_folder="there", num_threads=3
        ),
    )
    assert changed.of_weights() == config(resources=Resources(num_threads=3))
