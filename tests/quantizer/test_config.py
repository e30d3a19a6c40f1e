"""Settings of a conversion."""

import re

import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.ladder import Twin
from tfx_mobile.quantizer.config import Mode, QuantizerConfig

CHOICES = "modes must be one or more different modes of float32, float16, dynamic_range, int8; got "


def test_no_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{CHOICES}[].")):
        QuantizerConfig(modes=())


def test_a_mode_given_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{CHOICES}['int8', 'int8'].")):
        QuantizerConfig(modes=(Mode.INT8, Mode.INT8))


def test_a_mode_given_as_text_is_refused() -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{CHOICES}['int8'].")):
        QuantizerConfig(modes=("int8",))  # type: ignore[arg-type]


def test_calibration_on_one_row_is_refused() -> None:
    with pytest.raises(ConfigError, match=re.escape("calibration_rows must be at least 2; got 1.")):
        QuantizerConfig(calibration_rows=1)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match=re.escape("seed must be >= 0; got -1.")):
        QuantizerConfig(seed=-1)


def test_settings_survive_a_round_trip_through_json() -> None:
    wanted = QuantizerConfig(modes=(Mode.INT8, Mode.FLOAT32), calibration_rows=7, seed=3)
    assert QuantizerConfig.from_json(wanted.to_json()) == wanted


def test_an_unknown_mode_in_json_is_refused_with_the_choices() -> None:
    with pytest.raises(
        ConfigError,
        match=re.escape(
            "QuantizerConfig.modes[0] must be one of 'float32', 'float16', 'dynamic_range', 'int8'; "
            "got str 'int4'."
        ),
    ):
        QuantizerConfig.from_json('{"modes":["int4"]}')


def test_float32_is_always_made_and_modes_are_in_their_own_order() -> None:
    config = QuantizerConfig(modes=(Mode.INT8, Mode.FLOAT16))
    for twin in (Twin.PLAIN, Twin.REWOUND, Twin.CLUSTERED):
        assert config.modes_of(twin) == (Mode.FLOAT32, Mode.FLOAT16, Mode.INT8)


def test_a_rung_trained_for_int8_is_made_in_int8_or_not_at_all() -> None:
    assert QuantizerConfig().modes_of(Twin.QUANTIZATION_AWARE) == (Mode.INT8,)
    assert QuantizerConfig(modes=(Mode.FLOAT16,)).modes_of(Twin.QUANTIZATION_AWARE) == ()
