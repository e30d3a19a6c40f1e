"""JSON Schema of settings: it says what jsonable takes."""

import enum
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.common.schema_check import violations

from tfx_mobile.common import json_schema, jsonable
from tfx_mobile.common.errors import ConfigError


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Dot(jsonable.Settings):
    """A dot.

    More on it.

    Attributes:
      size: Its width,
        in pixels.
      colour: One of two.
    """

    kind: ClassVar[str] = "dot"

    size: float
    colour: Colour = Colour.RED


@dataclass(frozen=True)
class Line(jsonable.Settings):
    """A line."""

    kind: ClassVar[str] = "line"

    count: int


@dataclass(frozen=True)
class Picture(jsonable.Settings):
    """A picture."""

    name: str
    parts: tuple[Dot | Line, ...] = ()
    notes: dict[str, str] | None = None
    done: bool = False


@dataclass(frozen=True)
class Odd(jsonable.Settings):
    """It holds what settings cannot."""

    when: complex


SCHEMA = json_schema.schema_of(Picture, identifier="urn:test:1")
SIMPLE = st.none() | st.booleans() | st.integers() | st.floats(-9, 9) | st.sampled_from(["red", "x", "dot"])
ANYTHING = st.recursive(
    SIMPLE,
    lambda part: (
        st.lists(part, max_size=2)
        | st.dictionaries(
            st.sampled_from(["name", "parts", "notes", "done", "kind", "size", "colour", "count", "x"]),
            part,
            max_size=4,
        )
    ),
    max_leaves=8,
)
PICTURES = st.fixed_dictionaries(
    {"name": st.just("n") | SIMPLE},
    optional={
        "parts": st.lists(
            st.fixed_dictionaries(
                {"kind": st.sampled_from(["dot", "line", "x"])},
                optional={
                    "size": st.integers() | st.floats(-9, 9) | SIMPLE,
                    "colour": st.just("red") | SIMPLE,
                    "count": st.integers() | SIMPLE,
                },
            ),
            max_size=2,
        )
        | ANYTHING,
        "notes": st.none()
        | st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from(["", "c"]), max_size=2)
        | ANYTHING,
        "done": st.booleans() | ANYTHING,
        "x": SIMPLE,
    },
)


def test_words_types_and_what_is_required_come_from_the_class() -> None:
    assert SCHEMA["$defs"]["Dot"] == {
        "type": "object",
        "description": "A dot.",
        "properties": {
            "kind": {"const": "dot"},
            "size": {"description": "Its width, in pixels.", "type": "number"},
            "colour": {"description": "One of two.", "enum": ["red", "blue"]},
        },
        "required": ["kind", "size"],
        "additionalProperties": False,
    }
    assert SCHEMA["$ref"] == "#/$defs/Picture"
    assert SCHEMA["$defs"]["Picture"]["properties"]["parts"] == {
        "type": "array",
        "items": {"anyOf": [{"$ref": "#/$defs/Dot"}, {"$ref": "#/$defs/Line"}]},
    }


@given(PICTURES | ANYTHING)
def test_the_schema_takes_a_value_exactly_when_the_class_does(value: Any) -> None:
    try:
        Picture.from_dict(value)
        is_taken = True
    except ConfigError:
        is_taken = False

    assert (violations(value, SCHEMA, SCHEMA) == []) is is_taken


def test_a_type_that_settings_cannot_have_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=re.escape("Odd.when is <class 'complex'>")):
        json_schema.schema_of(Odd, identifier="urn:test:2")
