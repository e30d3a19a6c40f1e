"""Settings of a conversion."""

import re
from typing import Any

import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.ladder import Twin
from tfx_mobile.quantizer.config import (
    Inputs,
    Label,
    Mode,
    ModeSet,
    Quantization,
    QuantizerConfig,
    Runtime,
    quantizations,
)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "int8"}, "mode must be one of Mode.FLOAT32, Mode.FLOAT16, Mode.DYNAMIC_RANGE, Mode.INT8, "),
        ({"mode": Mode.INT8, "weight_bits": 2}, "weight_bits must be between 3 and 8; got 2."),
        ({"mode": Mode.INT8, "weight_bits": 9}, "weight_bits must be between 3 and 8; got 9."),
        (
            {"mode": Mode.FLOAT16, "weight_bits": 4},
            "weight_bits is for weights stored as bytes (Mode.DYNAMIC_RANGE, Mode.INT8, Mode.INT16X8, "
            "Mode.WEIGHT_ONLY_INT8); got Mode.FLOAT16.",
        ),
        ({"mode": Mode.INT4, "block_size": 16}, "block_size must be 0 or one of 32, 64, 128, 256; got 16."),
        ({"mode": Mode.INT8, "block_size": 32}, "block_size is for Mode.INT4; got Mode.INT8."),
        (
            {"mode": Mode.INT4, "sparse": True},
            "sparse is for Mode.FLOAT32, Mode.FLOAT16, Mode.DYNAMIC_RANGE, Mode.INT8, Mode.INT16X8; "
            "got Mode.INT4.",
        ),
        (
            {"mode": Mode.DYNAMIC_RANGE, "integer_io": True},
            "integer_io is for Mode.INT8, Mode.INT16X8; got Mode.DYNAMIC_RANGE.",
        ),
        ({"mode": Mode.INT8, "keep_float": -1}, "keep_float must be >= 0 layers; got -1."),
        (
            {"mode": Mode.INT8, "keep_float": 1, "max_gz_ratio": 0.0},
            "max_gz_ratio must be above 0 and at most 1; got 0.0.",
        ),
        (
            {"mode": Mode.INT8, "keep_float": 1, "max_gz_ratio": float("nan")},
            "max_gz_ratio must be above 0 and at most 1; got nan.",
        ),
        (
            {"mode": Mode.INT8, "exclude": "hidden"},
            "exclude must be a tuple of layer names or patterns; got 'hidden'.",
        ),
        (
            {"mode": Mode.FLOAT32, "keep_float": 1},
            "exclude and keep_float leave layers in float32; Mode.FLOAT32 has no others.",
        ),
        (
            {"mode": Mode.INT8, "exclude": ("out",), "sparse": True},
            "exclude and keep_float go with neither sparse nor integer_io.",
        ),
        ({"mode": Mode.INT8, "suffix": "a/b"}, "suffix must be small letters and digits; got 'a/b'."),
        (
            {"mode": Mode.INT8, "max_gz_ratio": 0.5},
            "max_gz_ratio says how far keep_float may go; keep_float is 0.",
        ),
    ],
)
def test_a_quantization_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Quantization(**settings)


@pytest.mark.parametrize(
    ("quantization", "name"),
    [
        (Quantization(Mode.INT8), "int8"),
        (Quantization(Mode.INT8, weight_bits=4, sparse=True), "int8-w4-sparse"),
        (Quantization(Mode.INT4, block_size=32), "int4-b32"),
        (Quantization(Mode.INT8, exclude=("out",), suffix="b"), "int8-without-b"),
        (Quantization(Mode.INT16X8, integer_io=True), "int16x8-io"),
        (Quantization(Mode.DYNAMIC_RANGE, exclude=("out",), keep_float=2), "dynamic_range-without-float2"),
    ],
)
def test_a_name_says_what_is_special(quantization: Quantization, name: str) -> None:
    assert quantization.name == name


def test_a_mode_stands_for_its_plain_quantization() -> None:
    assert quantizations([Mode.INT8]) == (Quantization(Mode.INT8),)


@pytest.mark.parametrize("chosen", list(ModeSet))
def test_a_set_is_found_by_its_name_and_holds_different_names(chosen: ModeSet) -> None:
    found = quantizations(chosen.value)
    assert found == quantizations(chosen)
    assert len({one.name for one in found}) == len(found) > 2


def test_the_default_is_the_standard_set() -> None:
    assert QuantizerConfig().modes == quantizations("standard")


@pytest.mark.parametrize(
    ("modes", "message"),
    [
        ("tiny", "A set of modes must be one of 'standard', 'smallest', 'fastest', 'accurate'; got 'tiny'."),
        ("int8", "A single mode is a list: [Mode.INT8]."),
        ([], "modes must be one or more that differ by name; got none."),
        (
            [Mode.INT8, Mode.INT8],
            "that differ by name; got int8 more than once: give one a suffix.",
        ),
        (
            [Quantization(Mode.INT8, exclude=("a",)), Quantization(Mode.INT8, exclude=("b",))],
            "that differ by name; got int8-without more than once: give one a suffix.",
        ),
        (["int8"], "or Quantization(...); got 'int8'."),
    ],
)
def test_modes_that_cannot_be_are_refused(modes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        quantizations(modes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"calibration_rows": 1}, "calibration_rows must be at least 2; got 1."),
        ({"seed": -1}, "seed must be >= 0; got -1."),
        ({"calibration_split": "eval"}, "is judged by; got 'eval' for both."),
        ({"timeout_seconds": 0.0}, "timeout_seconds must be above 0; got 0.0."),
        ({"timeout_seconds": float("inf")}, "timeout_seconds must be above 0; got inf."),
        ({"num_processes": -1}, "num_processes must be >= 0; got -1."),
        ({"max_scale_change": 0.0}, "max_scale_change must be above 0 and at most 1; got 0.0."),
        (
            {"runtimes": (Runtime("old", "a"), Runtime("old", "b"))},
            "runtimes must differ by name; got old, old.",
        ),
    ],
)
def test_a_run_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        QuantizerConfig(**settings)


def test_settings_survive_a_round_trip_through_json() -> None:
    wanted = QuantizerConfig(
        modes=(Quantization(Mode.INT8, weight_bits=5), Quantization(Mode.FLOAT32, sparse=True)),
        inputs=Inputs.TRANSFORMED,
        calibration_rows=7,
        seed=3,
        label=Label("fare", "USD"),
        units={"miles": "mi"},
        runtimes=(Runtime("old", "/usr/bin/python3"),),
    )
    assert QuantizerConfig.from_json(wanted.to_json()) == wanted


def test_an_unknown_mode_in_json_is_refused_with_the_choices() -> None:
    message = "QuantizerConfig.modes[0].mode must be one of 'float32', 'float16', 'dynamic_range', 'int8', "
    with pytest.raises(ConfigError, match=re.escape(message)):
        QuantizerConfig.from_json('{"modes":[{"mode":"int3"}]}')


def test_float32_is_always_made_and_comes_first() -> None:
    config = QuantizerConfig(modes=quantizations([Mode.INT8, Mode.FLOAT32, Mode.FLOAT16]))
    for twin in (Twin.PLAIN, Twin.REWOUND, Twin.CLUSTERED):
        names = [one.name for one in config.quantizations_of(twin)]
        assert names == ["float32", "int8", "float16"]


def test_a_rung_trained_for_int8_is_made_in_the_int8_modes_that_take_its_ranges() -> None:
    aware = Twin.QUANTIZATION_AWARE
    assert [one.name for one in QuantizerConfig().quantizations_of(aware)] == ["int8"]
    assert QuantizerConfig(modes=quantizations([Mode.FLOAT16])).quantizations_of(aware) == ()
    several = [
        Quantization(Mode.INT8, weight_bits=4),
        Quantization(Mode.INT8, keep_float=1),
        Quantization(Mode.INT16X8),
        Quantization(Mode.INT8, integer_io=True),
    ]
    found = QuantizerConfig(modes=quantizations(several)).quantizations_of(aware)
    assert [one.name for one in found] == ["int8-w4", "int8-io"]
