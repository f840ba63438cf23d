"""The codec: JSON becomes what a field asks for or is refused by name, and every output becomes JSON again."""

from __future__ import annotations

import datetime
import enum
import json
import sys
from typing import Any, Literal

import dspy
import pydantic
import pytest

from snakepit_bridge.exceptions import InputError, PredictionFailedError
from snakepit_bridge.programs.codec import decode_inputs, encode_completions, encode_outputs
from snakepit_bridge.programs.imports import AllowedImports
from snakepit_bridge.programs.signature_spec import SignatureSpec
from snakepit_bridge.testing import RecordingLM, scripted
from tests.harness.preloaded import run_preloaded
from tests.harness.signatures import make_signature
from tests.harness.waiting import PATIENCE_S
from tests.unit.programs.sample import Colour, Person

PIXEL = "data:image/png;base64,iVBORw0KGgo="


class Ordered(enum.IntEnum):
    FIRST = 1


def field(kind: Any, **options: Any) -> dict[str, Any]:
    signature = make_signature(
        {"x": (kind, dspy.InputField(**options)), "answer": (str, dspy.OutputField())}, "Answer."
    )
    return dict(signature.input_fields)


# ---------------------------------------------------------------- inputs


def steady(value: object) -> str:
    """Return the text of a value, the same in every process whatever the order of a set."""
    return str(sorted(value, key=str) if isinstance(value, set | frozenset) else value)


@pytest.mark.parametrize(
    ("kind", "given", "wanted"),
    [
        (str, "text", "text"),
        (int, 3, 3),
        (int, "3", 3),
        (float, 3, 3.0),
        (bool, True, True),
        (list[int], ["1", 2], [1, 2]),
        (set[str], ["b", "a", "b"], {"a", "b"}),
        (datetime.date, "2024-02-29", datetime.date(2024, 2, 29)),
        (datetime.timedelta, "PT90S", datetime.timedelta(seconds=90)),
        (Colour, "red", Colour.RED),
        (Literal["a", "b"], "a", "a"),
        (Person, {"name": "Ada", "age": 36}, Person(name="Ada", age=36)),
        (list[Person], [{"name": "Ada"}], [Person(name="Ada")]),
        (Person | None, None, None),
        (dspy.Image, {"url": PIXEL}, dspy.Image(PIXEL)),
        (dspy.Image | None, {"url": PIXEL}, dspy.Image(PIXEL)),
        (list[dspy.Image], [{"url": PIXEL}], [dspy.Image(PIXEL)]),
        (dspy.Audio, {"data": "aGk=", "audio_format": "wav"}, dspy.Audio(data="aGk=", audio_format="wav")),
        (dspy.History, {"messages": [{"question": "q"}]}, {"messages": [{"question": "q"}]}),
        (Any, {"any": [1, None]}, {"any": [1, None]}),
    ],
    ids=steady,
)
def test_a_json_value_becomes_what_the_field_asks_for(kind: Any, given: Any, wanted: Any) -> None:
    found = decode_inputs("qa", field(kind), {"x": given})["x"]

    assert (found.model_dump() if kind is dspy.History else found) == wanted
    if kind is dspy.History:
        assert isinstance(found, dspy.History)


@pytest.mark.parametrize(
    ("kind", "given", "problem"),
    [
        (int, "many", "valid integer"),
        (int, 1.5, "fractional"),
        (str, 3, "valid string"),
        (list[int], [1, "x"], "1: .*valid integer"),
        (Literal["a", "b"], "c", "'a' or 'b'"),
        (Colour, "green", "'red' or 'blue'"),
        (datetime.date, "yesterday", "valid date"),
        (Person, {"age": 3}, "name: Field required"),
        (Person, {"name": "Ada", "age": "old"}, "age: .*valid integer"),
        (Person, None, "Person"),
        (dspy.Image, {"picture": PIXEL}, "url: Field required|picture"),
        (dspy.Image, {"url": "/etc/passwd"}, "Unrecognized image"),
        (dspy.Image, {"url": "file:///etc/passwd"}, "Unrecognized image"),
        (dspy.Image, "/etc/passwd", "Image"),
        (dspy.Image, 5, "Image"),
        (list[dspy.Image], [{"url": "/etc/passwd"}], "0: .*Unrecognized image"),
        (dspy.Audio, "/etc/passwd", "data URI"),
        (dspy.History, [{"question": "q"}], "History"),
        (dspy.History, {"messages": "none"}, "messages: .*valid list"),
    ],
    ids=steady,
)
def test_a_value_that_cannot_become_it_is_refused_with_field_and_place(kind: Any, given: Any, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as refused:
        decode_inputs("qa", field(kind), {"x": given})

    assert (refused.value.program, refused.value.field) == ("qa", "x")


@pytest.mark.parametrize(
    ("kind", "limits", "good", "bad"),
    [
        (int, {"ge": 1, "le": 5}, 5, 6),
        (float, {"gt": 0}, 0.1, 0),
        (str, {"max_length": 3}, "abc", "abcd"),
        (list[int], {"min_length": 1}, [1], []),
    ],
)
def test_limits_hold_also_after_a_trip_through_a_spec(kind: Any, limits: dict[str, Any], good: Any, bad: Any) -> None:
    fields = field(kind, **limits)
    signature = make_signature({"x": (kind, dspy.InputField(**limits)), "answer": (str, dspy.OutputField())}, "Answer.")
    travelled = SignatureSpec.of(signature, program="qa").build(AllowedImports(), program="qa").input_fields

    for known in (fields, travelled):
        assert decode_inputs("qa", known, {"x": good}) == {"x": good}
        with pytest.raises(InputError):
            decode_inputs("qa", known, {"x": bad})


def test_an_unknown_input_and_a_missing_one_name_what_there_is() -> None:
    fields = make_signature("question, k: int -> answer").input_fields

    with pytest.raises(InputError, match=r"'questoin': it has no such input.*question, k"):
        decode_inputs("qa", fields, {"questoin": "x", "k": 1})
    with pytest.raises(InputError, match=r"'k': it is missing.*question, k"):
        decode_inputs("qa", fields, {"question": "x"})


def test_a_field_with_a_default_may_be_left_out_and_keeps_it() -> None:
    assert decode_inputs("qa", field(int, default=3), {}) == {}
    assert decode_inputs("qa", field(str, default=None), {"x": None}) == {"x": None}
    assert decode_inputs("qa", field(list[str], default_factory=list), {}) == {}


def test_a_field_whose_type_was_left_open_takes_anything() -> None:
    fields = make_signature("question -> answer").input_fields

    assert decode_inputs("qa", fields, {"question": {"a": [1]}}) == {"question": {"a": [1]}}


def test_without_known_fields_everything_goes_to_the_program() -> None:
    assert decode_inputs("qa", None, {"anything": 1}) == {"anything": 1}


def test_an_image_that_came_as_a_dict_is_really_sent() -> None:
    signature = make_signature("photo: dspy.Image -> answer")
    with RecordingLM() as server:
        lm = dspy.LM("openai/demo", api_base=server.url, api_key="k", cache=False, num_retries=0)
        with dspy.context(lm=lm):
            dspy.Predict(signature)(**decode_inputs("qa", signature.input_fields, {"photo": {"url": PIXEL}}))

        assert PIXEL in json.dumps(server.requests[0].body)


# ---------------------------------------------------------------- outputs


class Event(pydantic.BaseModel):
    day: datetime.date
    colours: list[Colour]


@pytest.mark.parametrize(
    ("value", "document"),
    [
        ("text", "text"),
        (None, None),
        (1.5, 1.5),
        (datetime.date(2024, 2, 29), "2024-02-29"),
        (datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC), "2024-02-29T12:00:00Z"),
        (datetime.timedelta(seconds=90), "PT1M30S"),
        (Colour.RED, "red"),
        (Ordered.FIRST, 1),
        ({3, 1, 2}, [1, 2, 3]),
        ({"b", "a"}, ["a", "b"]),
        ({Colour.RED, Colour.BLUE}, ["blue", "red"]),
        (frozenset({(2, "b"), (1, "a")}), [[1, "a"], [2, "b"]]),
        ([{"x"}, {"k": {2, 1}}], [["x"], {"k": [1, 2]}]),
        ((1, "a"), [1, "a"]),
        ({1: "a"}, {"1": "a"}),
        (Event(day=datetime.date(2024, 1, 2), colours=[Colour.BLUE]), {"day": "2024-01-02", "colours": ["blue"]}),
        ([Person(name="Ada")], [{"name": "Ada", "age": 0}]),
    ],
    ids=steady,
)
def test_an_output_becomes_json(value: Any, document: Any) -> None:
    encoded = encode_outputs("qa", dspy.Prediction(answer=value))

    assert encoded == {"answer": document}
    assert json.loads(json.dumps(encoded)) == encoded


def test_numbers_that_json_has_no_word_for_stay_numbers() -> None:
    assert encode_outputs("qa", dspy.Prediction(x=float("inf"), y=[float("-inf")])) == {
        "x": float("inf"),
        "y": [float("-inf")],
    }


def test_an_output_named_like_a_method_is_kept() -> None:
    assert encode_outputs("qa", dspy.Prediction(items="a", keys="b")) == {"items": "a", "keys": "b"}


@pytest.mark.parametrize("value", [object(), b"\xff\xfe", len, [object()]], ids=["object", "bytes", "function", "list"])
def test_an_output_without_a_json_form_is_a_named_error(value: Any) -> None:
    with pytest.raises(PredictionFailedError, match="'qa'"):
        encode_outputs("qa", dspy.Prediction(answer=value))


@pytest.mark.parametrize("returned", [None, "text", {"answer": "x"}, [dspy.Prediction(answer="x")]])
def test_a_program_that_returns_no_prediction_is_a_named_error(returned: Any) -> None:
    for encode in (encode_outputs, encode_completions):
        with pytest.raises(PredictionFailedError, match=r"must return a dspy\.Prediction"):
            encode("qa", returned)


def test_every_completion_is_there_where_there_are_several() -> None:
    with RecordingLM(scripted([{"answer": n, "tags": ["b", "a"]} for n in (1, 2, 3)])) as server:
        lm = dspy.LM("openai/demo", api_base=server.url, api_key="k", cache=False, num_retries=0)
        with dspy.context(lm=lm):
            predict = dspy.Predict("question -> answer: int, tags: set[str]", n=3, temperature=1.0)
            prediction = predict(question="how many?")

    completions = encode_completions("qa", prediction)
    assert sorted(completion["answer"] for completion in completions) == [1, 2, 3]
    assert all(completion["tags"] == ["a", "b"] for completion in completions)
    assert encode_outputs("qa", prediction) == completions[0]


def test_a_lone_completion_is_no_list() -> None:
    assert encode_completions("qa", dspy.Prediction(answer="x")) == []
    assert encode_completions("qa", dspy.Prediction.from_completions([{"answer": "x"}])) == []


def test_a_set_comes_in_the_same_order_from_every_process() -> None:
    script = (
        "import dspy, json; from snakepit_bridge.programs.codec import encode_outputs;"
        "print(json.dumps(encode_outputs('qa', dspy.Prediction(x={str(n) for n in range(50)}))))"
    )
    here = encode_outputs("qa", dspy.Prediction(x={str(n) for n in range(50)}))
    there = run_preloaded([sys.executable, "-c", script], timeout=PATIENCE_S)

    # Python seeds the order of sets anew in each process.
    assert there.stdout == json.dumps(here) + "\n", there.stderr
