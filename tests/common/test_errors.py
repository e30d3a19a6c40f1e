"""One tree of errors, split by who can fix it."""

import pytest

from tfx_mobile.common.errors import ConfigError, DataError, RegistryError, TfxMobileError


@pytest.mark.parametrize("error", [ConfigError, DataError, RegistryError])
def test_every_error_is_of_the_project(error: type[Exception]) -> None:
    assert issubclass(error, TfxMobileError)


@pytest.mark.parametrize(("error", "is_value_error"), [(ConfigError, 1), (DataError, 1), (RegistryError, 0)])
def test_settings_and_data_are_values_and_a_registry_is_not(
    error: type[Exception], is_value_error: int
) -> None:
    assert issubclass(error, ValueError) == bool(is_value_error)


def test_no_error_is_another() -> None:
    kinds = (ConfigError, DataError, RegistryError)
    assert not [(a, b) for a in kinds for b in kinds if a is not b and issubclass(a, b)]
