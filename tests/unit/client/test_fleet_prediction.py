"""What a client makes of a result: outputs by key, objects by attribute, completions, types on demand."""

from __future__ import annotations

import copy
import json
import typing
from typing import Any

import dspy
import pydantic
import pytest

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.fleet_prediction import FleetPrediction
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.protocol.messages import Result
from tests.unit.protocol.test_provenance import SAMPLE


class Ticket(pydantic.BaseModel):
    category: str
    parts: list[dict[str, int]] = []


class Sort(dspy.Signature):
    """Sort it."""

    text: str = dspy.InputField()
    ticket: Ticket = dspy.OutputField()


OUTPUTS: dict[str, Any] = {
    "ticket": {"category": "billing", "parts": [{"a": 1}], "items": [2], "class": "x"},
    "base": "b",
    "self": "s",
    "items": "i",
}


def prediction(*completions: dict[str, Any]) -> FleetPrediction:
    return FleetPrediction.from_result(Result(OUTPUTS, SAMPLE.encode(), {}, list(completions)))


def test_an_object_is_read_by_attribute_and_by_key() -> None:
    ticket: Any = prediction().ticket
    assert ticket.category == ticket["category"] == "billing"
    assert ticket.parts[0].a == 1
    assert ticket["items"] == [2]
    assert ticket == OUTPUTS["ticket"]
    assert json.loads(json.dumps(ticket)) == OUTPUTS["ticket"]
    assert copy.deepcopy(ticket).category == "billing"
    assert "category" in dir(ticket)
    with pytest.raises(AttributeError, match="no 'colour', only: category, parts"):
        _ = ticket.colour
    assert not hasattr(ticket, "colour")
    assert isinstance(ticket, dict)


def test_names_of_dspys_own_are_outputs_all_the_same() -> None:
    predicted = prediction({"base": "b1", "self": "s1"}, {"base": "b2", "self": "s2"})
    assert (predicted["base"], predicted["self"]) == ("b1", "s1")
    assert predicted.completions[1]["self"] == "s2"
    assert predicted.completions["base"] == ["b1", "b2"]
    with pytest.raises(IndexError):
        predicted.completions[2]


def test_who_holds_the_class_gets_the_object() -> None:
    predicted = prediction()
    typed = predicted.typed(Sort)
    assert typed.ticket == Ticket(category="billing", parts=[{"a": 1}])
    assert typed["base"] == "b"
    assert typed.provenance == predicted.provenance
    assert typed.get_lm_usage() == predicted.get_lm_usage()
    assert isinstance(predicted.ticket, dict)
    with pytest.raises(pydantic.ValidationError):
        FleetPrediction.from_result(Result({"ticket": {"parts": 3}}, SAMPLE.encode(), {}, [])).typed(Sort)


def test_the_type_of_map_says_errors_only_where_they_are_returned() -> None:
    raised, returned = (typing.get_type_hints(each, localns=_names()) for each in typing.get_overloads(Fleet.map))
    assert raised["errors"] == typing.Literal["raise"]
    assert typing.get_args(raised["return"]) == (FleetPrediction,)
    assert typing.get_args(typing.get_args(returned["return"])[0]) == (FleetPrediction, BridgeError)


def _names() -> dict[str, Any]:
    return {"FleetPrediction": FleetPrediction}
