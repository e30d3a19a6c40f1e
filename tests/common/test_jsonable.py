"""Strict, canonical JSON: the same settings give the same bytes, and nothing doubtful is read."""

import dataclasses
import enum
import json
import re
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfx_mobile.common import jsonable
from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.jsonable import Settings


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass(frozen=True)
class Circle(Settings):
    kind: ClassVar[str] = "circle"

    radius: float


@dataclasses.dataclass(frozen=True)
class Square(Settings):
    kind: ClassVar[str] = "square"

    side: float
    colour: Colour = Colour.RED


@dataclasses.dataclass(frozen=True)
class Drawing(Settings):
    name: str
    shapes: tuple[Circle | Square, ...] = ()
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)
    share: int | float = 1
    note: str | None = None
    framed: bool = False


def refused(text: str, message: str, wanted: type[Settings] = Drawing) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        wanted.from_json(text)


def drawing(**values: Any) -> str:
    return json.dumps({"name": "a"} | values)


texts = st.text(max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False)
shapes = st.builds(Circle, numbers) | st.builds(Square, numbers, st.sampled_from(Colour))
drawings = st.builds(
    Drawing,
    name=texts,
    shapes=st.lists(shapes, max_size=4).map(tuple),
    sizes=st.dictionaries(texts, st.integers(), max_size=4),
    share=st.integers() | numbers,
    note=st.none() | texts,
    framed=st.booleans(),
)


@given(drawings)
def test_settings_come_back_the_same_with_the_same_bytes(one: Drawing) -> None:
    back = Drawing.from_json(one.to_json())
    assert back == one
    assert type(back.share) is type(one.share)
    assert back.to_json() == one.to_json()


def test_the_bytes_are_sorted_and_without_white_space() -> None:
    one = Drawing("a", (Square(1.0),), {"z": 1, "b": 2})
    other = Drawing("a", (Square(1.0),), {"b": 2, "z": 1})
    assert one.to_json() == other.to_json()
    assert one.to_json() == (
        '{"framed":false,"name":"a","note":null,"shapes":[{"colour":"red","kind":"square","side":1.0}],'
        '"share":1,"sizes":{"b":2,"z":1}}'
    )


def test_indented_json_is_canonical_too() -> None:
    assert jsonable.dumps({"b": 1, "a": [2]}, indent=2) == '{\n  "a": [\n    2\n  ],\n  "b": 1\n}'


def test_an_unknown_key_is_named_with_those_there_are() -> None:
    refused(
        drawing(colour="red"),
        "Drawing has no setting 'colour'; it has framed, name, note, shapes, share, sizes.",
    )


def test_a_missing_key_is_named() -> None:
    refused("{}", "Drawing lacks 'name'.")


def test_a_repeated_key_is_refused() -> None:
    refused('{"name":"a","name":"b"}', "Drawing must be JSON; key 'name' stands twice.")
    refused('{"name":"a","sizes":{"x":1,"x":1}}', "Drawing must be JSON; key 'x' stands twice.")


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_constants_that_json_does_not_have_are_refused(constant: str) -> None:
    refused(f'{{"name":"a","share":{constant}}}', f"Drawing must be JSON; {constant} is not a JSON number.")


@pytest.mark.parametrize("number", ["1e999", "-1e999"])
def test_a_number_too_large_for_a_float_is_not_read_as_infinity(number: str) -> None:
    refused(f'{{"name":"a","share":{number}}}', f"Drawing must be JSON; {number} is too large a number.")


def test_an_integer_too_large_for_a_float_setting_is_refused() -> None:
    text = f'{{"radius":{10**400}}}'
    with pytest.raises(ConfigError, match=re.escape("Circle.radius must be float; got int 1000")):
        Circle.from_json(text)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_not_written(value: float) -> None:
    with pytest.raises(ConfigError, match=re.escape("JSON has no NaN and no infinity; ")):
        Circle(value).to_json()


def test_what_is_not_json_is_refused() -> None:
    refused("{name: 1}", "Drawing must be JSON; Expecting property name enclosed in double quotes: "
            "line 1 column 2 (char 1).")  # fmt: skip
    with pytest.raises(ConfigError, match=re.escape("settings must be JSON; 'utf-8' codec can't decode")):
        jsonable.loads(b'{"a": "\xff"}', where="settings")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": 3}, "Drawing.name must be str; got int 3."),
        ({"framed": 1}, "Drawing.framed must be bool; got int 1."),
        ({"framed": None}, "Drawing.framed must be bool; got NoneType None."),
        ({"note": 1}, "Drawing.note must be str; got int 1."),
        (
            {"share": True},
            "Drawing.share must be int; got bool True. or Drawing.share must be float; got bool True.",
        ),
        ({"shapes": "ab"}, "Drawing.shapes must be a list; got str 'ab'."),
        (
            {"shapes": [{"kind": "circle", "radius": "x"}]},
            "Drawing.shapes[0].radius must be float; got str 'x'.",
        ),
        ({"sizes": [1]}, "Drawing.sizes must be an object; got list [1]."),
        ({"sizes": {"x": 1.0}}, "Drawing.sizes.x must be int; got float 1.0."),
        (
            {"shapes": [{"kind": "square", "side": 1, "colour": "green"}]},
            "Drawing.shapes[0].colour must be one of 'red', 'blue'; got str 'green'.",
        ),
    ],
)
def test_a_wrong_type_is_named_with_its_place(values: dict[str, Any], message: str) -> None:
    refused(drawing(**values), message)


@pytest.mark.parametrize("text", ["[]", '"a"', "1", "null"])
def test_settings_are_an_object(text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape("Drawing must be an object; got ")):
        Drawing.from_json(text)


def test_a_long_value_is_shortened_in_the_message() -> None:
    with pytest.raises(ConfigError) as caught:
        Drawing.from_json(drawing(framed="x" * 500))
    assert len(str(caught.value)) < 120
    assert str(caught.value).endswith("....")


class TestUnionsByKind:
    def test_the_kind_chooses_the_class(self) -> None:
        found = Drawing.from_json(
            drawing(shapes=[{"kind": "square", "side": 2}, {"kind": "circle", "radius": 1}])
        )
        assert found.shapes == (Square(2.0), Circle(1.0))

    @pytest.mark.parametrize("kind", ["line", None, 3, [], {}])
    def test_an_unknown_kind_is_refused_with_those_there_are(self, kind: Any) -> None:
        refused(
            drawing(shapes=[{"kind": kind, "radius": 1}]),
            f"Drawing.shapes[0].kind must be one of 'circle', 'square'; got {kind!r}.",
        )

    def test_a_missing_kind_is_refused(self) -> None:
        refused(
            drawing(shapes=[{"radius": 1}]),
            "Drawing.shapes[0].kind must be one of 'circle', 'square'; got None.",
        )

    def test_the_settings_of_another_kind_are_refused(self) -> None:
        refused(
            drawing(shapes=[{"kind": "circle", "radius": 1, "side": 1}]),
            "Drawing.shapes[0] has no setting 'side'; it has radius.",
        )

    def test_outside_a_union_a_wrong_kind_is_refused_too(self) -> None:
        refused('{"kind":"square","radius":1}', "Circle.kind must be 'circle'; got 'square'.", Circle)


def test_an_integer_is_read_as_a_float_where_one_is_asked_for() -> None:
    assert type(Circle.from_json('{"radius":3}').radius) is float


def test_defaults_stand_where_a_key_is_left_out() -> None:
    assert Drawing.from_json('{"name":"a"}') == Drawing("a")
