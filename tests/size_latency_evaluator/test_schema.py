"""evaluation.schema.json: up to date, and what every evaluation.json is like."""

import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.common.schema_check import violations
from tests.size_latency_evaluator import samples

from tfx_mobile.size_latency_evaluator import schema
from tfx_mobile.size_latency_evaluator.evaluation import SCHEMA_VERSION, Evaluation

SCHEMA = json.loads(schema.SCHEMA_FILE.read_text())


def test_the_schema_file_is_what_the_classes_say() -> None:
    assert schema.SCHEMA_FILE.read_text() == schema.text(), (
        "The classes of an evaluation have changed: raise SCHEMA_VERSION where files of the last release no "
        f"longer fit, and write python -m {schema.__name__} into {schema.SCHEMA_FILE.name}."
    )


def test_the_module_prints_the_schema() -> None:
    command = [sys.executable, "-m", schema.__name__]

    assert json.loads(subprocess.run(command, capture_output=True, check=True).stdout) == SCHEMA


@pytest.mark.parametrize("make", [samples.full, samples.hostile, samples.nothing_runs])
def test_evaluations_fit_the_schema(make: Any) -> None:
    value = json.loads(make().to_json())

    assert violations(value, SCHEMA, SCHEMA) == []


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["schema_version"], SCHEMA_VERSION - 1, f"$.schema_version: not {SCHEMA_VERSION}"),
        (["candidates", 0, "gz_size_bytes"], 1.5, "$.candidates[0].gz_size_bytes: not integer: 1.5"),
        (["candidates", 0, "blest"], True, "$.candidates[0]: has no blest"),
        (["history", 0, "published"], None, "$.history[0].published: not string: None"),
        (["candidates", 0, "verdicts", 0, "status"], "ok", "$.candidates[0].verdicts[0].status: not one of"),
    ],
)
def test_what_is_no_evaluation_does_not_fit(path: list[Any], value: Any, words: str) -> None:
    changed: Any = copy.deepcopy(json.loads(samples.full().to_json()))
    place = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value

    assert any(found.startswith(words) for found in violations(changed, SCHEMA, SCHEMA))


def test_every_value_of_an_evaluation_has_words() -> None:
    for name, definition in SCHEMA["$defs"].items():
        for field, found in definition["properties"].items():
            assert field == "kind" or found.get("description"), f"{name}.{field}"
    assert set(SCHEMA["$defs"]["Evaluation"]["properties"]) == {
        field.name for field in dataclasses.fields(Evaluation)
    }


def test_the_guide_names_this_version() -> None:
    guide = Path(__file__).parents[2] / "docs" / "evaluation-page.md"

    assert f"`schema_version` is {SCHEMA_VERSION}." in guide.read_text()


def test_the_schema_is_a_file_of_the_package() -> None:
    assert Path(schema.__file__).parent == schema.SCHEMA_FILE.parent
