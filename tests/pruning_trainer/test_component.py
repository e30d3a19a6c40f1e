"""What is refused when a pipeline is built, and what makes TFX's cache train again."""

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.pruning_trainer.config import Layers, Pruning, Rewinding, TrainerConfig

pytestmark = pytest.mark.pipeline

WRONG: Any = "hidden_*"  # a string where a tuple belongs
MODULE = "def build_model(ctx):\n    return None\n"


def trainer(**settings: Any) -> Any:
    from tfx import types
    from tfx.types import standard_artifacts

    from tfx_mobile.pruning_trainer.component import PruningTrainer

    return PruningTrainer(
        examples=types.Channel(type=standard_artifacts.Examples),
        transform_graph=types.Channel(type=standard_artifacts.TransformGraph),
        label_key="fare",
        **settings,
    )


def a_model() -> Any:
    from tfx import types
    from tfx.types import standard_artifacts

    return types.Channel(type=standard_artifacts.Model)


@pytest.fixture
def module_file(tmp_path: Path) -> Path:
    path = tmp_path / "my_model.py"
    path.write_text(MODULE)
    return path


def test_the_text_of_a_module_file_travels_and_build_model_is_its_function(module_file: Path) -> None:
    config = TrainerConfig.from_json(trainer(module_file=module_file).exec_properties["config"])
    assert config.module_source == MODULE
    assert config.build_model == "build_model"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "PruningTrainer needs a model; give build_model (a dotted name), module_file, or base_model."),
        ({"build_model": "tiny_models.build_line", "epochs": 5.0}, "epochs must be"),
        (
            {"build_model": "tiny_models.build_line", "pruning": Pruning(layers=Layers(names=WRONG))},
            "names must be",
        ),
        (
            {"build_model": "tiny_models.build_line", "hyperparameters": {"units": np.int64(3)}},
            "Settings must be text, numbers, booleans, None, lists and dicts; Object of type int64 is not "
            "JSON serializable. Of a NumPy number, take .item().",
        ),
        (
            {"build_model": "nowhere.build_model"},
            "Module 'nowhere' must be importable from source",
        ),
    ],
)
def test_what_is_wrong_is_refused_when_the_pipeline_is_built(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        trainer(**settings)


def test_a_base_model_cannot_be_rewound() -> None:
    message = "Rewinding goes back to the dense training; a base model comes trained. Leave one of them out."
    with pytest.raises(ConfigError, match=re.escape(message)):
        trainer(base_model=a_model(), rewinding=Rewinding())


def test_a_function_that_the_module_file_has_not_is_refused(module_file: Path) -> None:
    message = (
        "input_fn must be the name of a function in module_file; got 'build_mode', which it has not. Did you "
        "mean 'build_model'?"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        trainer(module_file=module_file, input_fn="build_mode")
    module_file.write_text("from elsewhere import *\n")
    trainer(module_file=module_file, input_fn="anything")


def test_a_change_of_what_the_model_s_module_imports_trains_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_features.py").write_text("SIZE = 1\n")
    (tmp_path / "own_model.py").write_text(f"from own_features import SIZE\n{MODULE}")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    codes = [trainer(build_model="own_model.build_model").exec_properties["code"]]
    (tmp_path / "own_features.py").write_text("SIZE = 2\n")
    codes.append(trainer(build_model="own_model.build_model").exec_properties["code"])
    assert codes[0] != codes[1]
    assert not {"own_model", "own_features"} & set(sys.modules)
