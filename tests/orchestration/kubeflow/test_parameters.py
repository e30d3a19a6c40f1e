"""Types of parameters that Kubeflow does not keep."""

import re

import pytest

from tfx_mobile.common.errors import ConfigError

pytestmark = pytest.mark.pipeline


def restored(kind: str, value):
    from google.protobuf import json_format, struct_pb2
    from kfp.pipeline_spec import pipeline_spec_pb2

    from tfx_mobile.orchestration.kubeflow import parameters

    spec = json_format.ParseDict(
        {"parameters": {"p": {"parameterType": kind}} if kind else {}},
        pipeline_spec_pb2.ComponentInputsSpec(),
    )
    return parameters.restore({"p": json_format.ParseDict(value, struct_pb2.Value())}, spec)["p"]


@pytest.mark.parametrize(
    ("kind", "sent", "wanted"),
    [
        ("STRING", "7", "7"),
        ("STRING", "", ""),
        ("NUMBER_INTEGER", 7.0, 7),
        ("NUMBER_INTEGER", -(2.0**53) + 1, -(2**53) + 1),
        ("NUMBER_DOUBLE", 1, 1.0),
        ("NUMBER_DOUBLE", 0.25, 0.25),
        ("BOOLEAN", True, True),
        ("BOOLEAN", False, False),
        ("BOOLEAN", 1.0, True),
        ("BOOLEAN", 0.0, False),
    ],
)
def test_a_parameter_is_what_it_was_declared(kind, sent, wanted):
    found = restored(kind, sent)
    assert (type(found), found) == (type(wanted), wanted)


@pytest.mark.parametrize(
    ("kind", "sent", "got"),
    [
        ("NUMBER_INTEGER", 1.5, "of type NUMBER_INTEGER; got 1.5."),
        ("NUMBER_INTEGER", 2.0**53, "of type NUMBER_INTEGER; got 9007199254740992.0."),
        ("NUMBER_INTEGER", "7", "of type NUMBER_INTEGER; got '7'."),
        ("NUMBER_DOUBLE", True, "of type NUMBER_DOUBLE; got True."),
        ("STRING", 7.0, "of type STRING; got 7.0."),
        ("STRING", None, "of type STRING; got "),
        ("BOOLEAN", "true", "of type BOOLEAN; got 'true'."),
        ("BOOLEAN", 2.0, "of type BOOLEAN; got 2.0."),
        ("STRUCT", {"a": 1}, "declared as string, integer, double or boolean; it is of no such type."),
        ("", "7", "declared as string, integer, double or boolean; it is not declared."),
    ],
)
def test_a_parameter_of_another_type_is_refused(kind, sent, got):
    with pytest.raises(ConfigError, match=re.escape(f"Parameter 'p' must be {got}")):
        restored(kind, sent)


def test_a_number_that_is_not_finite_is_refused():
    from google.protobuf import struct_pb2
    from kfp.pipeline_spec import pipeline_spec_pb2

    from tfx_mobile.orchestration.kubeflow import parameters

    spec = pipeline_spec_pb2.ComponentInputsSpec()
    spec.parameters["p"].parameter_type = pipeline_spec_pb2.ParameterType.NUMBER_DOUBLE
    for number in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=re.escape(f"Parameter 'p' must be finite; got {number}.")):
            parameters.restore({"p": struct_pb2.Value(number_value=number)}, spec)
