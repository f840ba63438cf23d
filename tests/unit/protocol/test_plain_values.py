"""What Python users have becomes JSON that a worker reads it back from, or is refused by name."""

from __future__ import annotations

import dataclasses
import enum
import math
import sys
from collections import OrderedDict
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import dspy
import pydantic
import pytest

from snakepit_bridge.protocol.json_values import ValueBounds
from snakepit_bridge.protocol.plain_values import UnfitValueError, to_plain_value

IMAGE = dspy.Image("https://example.org/a.png")


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Word(enum.StrEnum):
    YES = "yes"


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass
class Part:
    number: int
    lasts: timedelta
    price: Decimal = Decimal("1.50")


class Ticket(pydantic.BaseModel):
    title: str
    image: dspy.Image
    colour: Colour = Colour.RED
    parts: list[Part] = []
    score: float = math.nan


class Aliased(pydantic.BaseModel):
    number: int = pydantic.Field(alias="theNumber")


class Numbers(pydantic.RootModel[list[int]]):
    pass


class Secret(pydantic.BaseModel):
    key: pydantic.SecretStr


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Word.YES, "yes"),
        (Point(1, 2), [1, 2]),
        ({3, 1, 2}, [1, 2, 3]),
        ((1, (2,)), [1, [2]]),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        ({None: "b", True: "c"} | {Colour.RED: "d", date(2026, 1, 2): "e"}, None),
        (timedelta(hours=1), "PT1H"),
        (Path("a/b"), "a/b"),
        (Part(1, timedelta(1)), {"number": 1, "lasts": "P1D", "price": Decimal("1.50")}),
        (IMAGE, {"url": IMAGE.url}),
        (dspy.Audio(data="aGk=", audio_format="wav"), {"data": "aGk=", "audio_format": "wav"}),
        (dspy.History(messages=[{"q": "a", "i": IMAGE}]), {"messages": [{"q": "a", "i": {"url": IMAGE.url}}]}),
        (Aliased(theNumber=3), {"theNumber": 3}),
        (Numbers([1, 2]), [1, 2]),
        (bytearray(b"hi"), b"hi"),
    ],
)
def test_python_values_become_json(value: Any, plain: Any) -> None:
    encoded = to_plain_value(value)
    if isinstance(value, dict) and plain is None:
        assert encoded == {"true": "c", "None": "b", "red": "d", "2026-01-02": "e"}
    else:
        assert encoded == plain


def test_a_model_survives_the_round_trip() -> None:
    ticket = Ticket(title="t", image=IMAGE, parts=[Part(1, timedelta(minutes=90))])
    again = Ticket.model_validate(to_plain_value(ticket))
    assert (again.image, again.colour, again.parts) == (IMAGE, Colour.RED, ticket.parts)
    assert math.isnan(again.score)


@pytest.mark.parametrize(
    "value",
    [datetime(2026, 1, 2, tzinfo=UTC), date(2026, 1, 2), time(3), Decimal("0.10"), b"\xff", UUID(int=1), 1.5, None],
)
def test_celerys_own_types_are_kept(value: Any) -> None:
    assert to_plain_value({"a": [value]}) == {"a": [value]}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (object(), r"a value of type object has no JSON form"),
        ({"a": {"b": [lambda: None]}}, r"in a\.b: a value of type function has no JSON form"),
        (Secret(key=pydantic.SecretStr("sesame")), r"a value of type Secret"),
        ({1: 1, "1": 2}, r"two of its keys are written '1'"),
        ({(1, 2): 3}, r"a key can't be a tuple"),
        (dspy.Tool(len, name="len", args={}), r"in func"),
        (sys, r"a value of type module has no JSON form"),
        ("a\ud800", r"lone surrogate"),
        ({"n": 10**5_000}, r"4,200 digits"),
    ],
)
def test_values_that_cannot_be_restored_are_rejected_with_their_path(value: Any, says: str) -> None:
    with pytest.raises(UnfitValueError, match=says) as refused:
        to_plain_value(value)
    assert "sesame" not in str(refused.value)


def test_deep_cyclic_and_exploding_values_are_rejected() -> None:
    bounds, deep, cyclic, shared = ValueBounds(depth=50, max_bytes=10_000), list[Any](), list[Any](), list[Any]()
    for _ in range(100_000):
        deep = [deep]
    cyclic.append(cyclic)
    for _ in range(40):
        shared = [shared] * 2
    for value, says in ((deep, "deeper than 50"), (cyclic, "deeper than 50"), (shared, "larger than 10000")):
        with pytest.raises(UnfitValueError, match=says):
            to_plain_value(value, bounds)
