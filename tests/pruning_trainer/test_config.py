"""Settings of a training: what is refused when the pipeline is built, and canonical JSON."""

import re
from typing import Any

import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.pruning_trainer.config import TrainerConfig

RISING = "sparsities must start at 0 and rise; got "


def config(**changed: Any) -> TrainerConfig:
    return TrainerConfig(**({"build_model": "taxi.model.build_model", "label_key": "fare"} | changed))


@pytest.mark.parametrize("name", ["build_model", "", "taxi.", ".build_model", "taxi.model.2", "taxi model"])
def test_a_build_model_that_is_not_a_dotted_name_is_refused(name: str) -> None:
    with pytest.raises(
        ConfigError,
        match=re.escape(
            "build_model must be the dotted name of a function, such as 'taxi_fare.model.build_model'; "
            f"got {name!r}."
        ),
    ):
        config(build_model=name)


def test_the_module_of_build_model_is_all_but_its_last_part() -> None:
    assert config(build_model="a.b.c").user_module == "a.b"


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


@pytest.mark.parametrize(
    "name", ["epochs", "patience", "fine_tune_epochs", "batch_size", "min_prunable_weights"]
)
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
