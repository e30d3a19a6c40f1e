"""What stands for a missing value, as the files say it and as rows have it."""

from typing import Any

import numpy as np
import pytest

from tfx_mobile.common import tflite_metadata
from tfx_mobile.common.tflite_metadata import Feature, ModelMetadata

pytestmark = pytest.mark.pipeline


@pytest.mark.parametrize(
    ("dtype", "marker"),
    [
        ("string", b""),
        ("string", b"unknown"),
        ("int64", np.int64(-(2**63))),
        ("int64", 2**53 + 1),
        ("float32", -1.5),
        ("int64", None),
    ],
)
def test_a_marker_comes_back_from_the_metadata_as_it_was(dtype: str, marker: Any) -> None:
    from tfx_mobile.quantizer.preparation import _marker

    feature = Feature("f", dtype, missing=_marker(marker))
    again = Feature.from_json(feature.to_json())
    found = tflite_metadata.missing_values(ModelMetadata("m", "1", (again,), Feature("y", "float32")))
    assert found == {"f": marker}
    assert type(found["f"]) in (bytes, int, float, type(None))


def test_nan_is_a_marker_that_json_can_hold() -> None:
    from tfx_mobile.quantizer.preparation import _marker

    feature = Feature("f", "float32", missing=_marker(np.float32(np.nan)))
    again = Feature.from_json(feature.to_json())
    found = tflite_metadata.missing_values(ModelMetadata("m", "1", (again,), Feature("y", "float32")))
    assert np.isnan(found["f"])
