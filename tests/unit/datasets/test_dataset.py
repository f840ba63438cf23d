"""A dataset is identified by its content, keeps what a request can carry, and names the example that it can't have."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from typing import Any

import dspy
import pytest

from snakepit_bridge.datasets.dataset import MAX_ROWS, Dataset
from snakepit_bridge.datasets.rows import MAX_ROW_BYTES
from snakepit_bridge.exceptions import DatasetError

ROWS = [{"question": "1+1?", "answer": "2"}, {"question": "2+2?", "answer": "4", "hint": None}]


def build(*examples: Any, inputs: Any = ("question",), name: str = "golden") -> Dataset:
    return Dataset.build(name, examples, inputs=inputs)


def test_examples_have_their_fields_and_their_inputs_marked() -> None:
    dataset = build(*ROWS)
    assert len(dataset) == 2
    assert [example.inputs().toDict() for example in dataset.examples] == [{"question": "1+1?"}, {"question": "2+2?"}]
    assert dataset.examples[0].labels().toDict() == {"answer": "2"}
    assert dataset.inputs_of(1) == {"question": "2+2?"}
    assert dataset.fields == ["question", "answer", "hint"]


def test_the_digest_is_of_the_content_alone() -> None:
    first, renamed = build(*ROWS), build(*ROWS, name="other")
    turned = build(*({name: row[name] for name in reversed(row)} for row in ROWS))
    assert first.digest == renamed.digest == turned.digest
    assert first.example_digests == turned.example_digests
    assert len({first.digest, build(*reversed(ROWS)).digest, build(*ROWS, inputs=("question", "answer")).digest}) == 3
    assert build(ROWS[1]).example_digests[0] == first.example_digests[1]


def test_the_order_of_inputs_does_not_count_but_the_order_within_a_value_does() -> None:
    both = ("question", "answer")
    assert build(ROWS[0], inputs=both).digest == build(ROWS[0], inputs=both[::-1]).digest
    nested, turned = {"question": {"a": 1, "b": 2}}, {"question": {"b": 2, "a": 1}}
    assert build(nested).digest != build(turned).digest  # a prompt shows the order of an object's keys


def test_a_stored_dataset_is_decoded_as_it_was() -> None:
    image, day = dspy.Image("https://example.org/sky.png"), date(2026, 11, 29)
    dataset = build({"question": image, "when": day, "pair": (1, 2), "text": "größer", "none": None, "x": 0.5})
    decoded = Dataset.decode("golden", 3, dataset.inputs, dataset.lines)
    assert (str(decoded), decoded.digest, decoded.rows) == ("golden:3", dataset.digest, dataset.rows)
    example = decoded.examples[0]
    assert (example.question, example.when, example.pair, example.text) == (image, day, (1, 2), "größer")


def test_user_data_that_looks_like_an_encoded_type_stays_as_it_is() -> None:
    looks_typed = {"question": {"__type__": "datetime", "__value__": "2026-11-29"}}
    dataset = build(looks_typed)
    assert Dataset.decode("golden", 1, dataset.inputs, dataset.lines).rows == (looks_typed,)


def test_inputs_that_examples_mark_are_used() -> None:
    examples = [dspy.Example(row).with_inputs("question") for row in ROWS]
    assert build(*examples, inputs=None).digest == build(*ROWS).digest
    drawn_at_random = dspy.Example(ROWS[0], dspy_uuid="9f1c").with_inputs("question")
    assert build(drawn_at_random, inputs=None).digest == build(ROWS[0]).digest


def test_examples_of_a_program_without_inputs_mark_none() -> None:
    marked, given = build(dspy.Example(joke="Ha!").with_inputs(), inputs=None), build({"joke": "Ha!"}, inputs=[])
    assert (marked.inputs, marked.inputs_of(0), marked.fields) == ((), {}, ["joke"])
    assert marked.digest == given.digest != build({"joke": "Ha!"}, inputs=["joke"]).digest
    assert marked.examples[0].inputs().toDict() == {}
    assert Dataset.decode("golden", 1, marked.inputs, marked.lines).digest == marked.digest


@pytest.mark.parametrize(
    ("examples", "inputs", "message"),
    [
        ([], ["question"], "dataset 'golden': it has no examples"),
        (ROWS, None, "dataset 'golden': its inputs aren't marked"),
        (ROWS, "question", "dataset 'golden': its inputs aren't marked"),
        ([ROWS[0], {"answer": "4"}], ["question"], "example 2 of 'golden': it lacks the input field 'question'"),
        ([ROWS[0], "text"], ["question"], "example 2 of 'golden': it must be an object or a dspy.Example, not a str"),
        ([{}], ["question"], "example 1 of 'golden': it has no fields"),
        ([{"question": float("nan")}], ["question"], "field 'question' has a number that isn't finite"),
        ([{"question": {"deep": [float("inf")]}}], ["question"], "field 'question' has a number that isn't finite"),
        ([{"question": object()}], ["question"], "example 1 of 'golden': field 'question': a value of type object"),
        ([{"question": "\ud800"}], ["question"], "it holds a lone surrogate"),
        ([{"question": "x" * MAX_ROW_BYTES}], ["question"], f"larger than {MAX_ROW_BYTES} bytes"),
        ([{1: "x"}], ["question"], "a field's name is 1 to 100 printable characters; got '1'"),
        ([{"dspy_uuid": "x"}], ["dspy_uuid"], "DSPy hides fields whose names begin with 'dspy_'"),
        (({"question": "x"} for _ in range(MAX_ROWS + 1)), ["question"], f"a dataset has {MAX_ROWS} examples at most"),
        (
            [dspy.Example(q=1, a=1).with_inputs("q"), dspy.Example(q=1, a=1).with_inputs("a")],
            None,
            "example 2 of 'golden': its inputs are 'a', and those of the first example 'q'",
        ),
        ([dspy.Example(a=1)], None, "dataset 'golden': its inputs aren't marked"),
        (
            [dspy.Example(a=1).with_inputs(), dspy.Example(a=1)],
            None,
            "example 2 of 'golden': its inputs are not marked, and those of the first example none",
        ),
    ],
)
def test_what_can_not_be_a_dataset_is_refused_by_name(examples: Any, inputs: Any, message: str) -> None:
    with pytest.raises(DatasetError) as caught:
        Dataset.build("golden", examples, inputs=inputs)
    assert message in str(caught.value)


def test_an_optional_input_may_be_missing_from_some_examples() -> None:
    dataset = build({"question": "?", "context": "c"}, {"question": "!"}, inputs=["question", "context?"])
    assert (dataset.inputs, dataset.optional_inputs) == (("question", "context"), ["context"])
    assert dataset.inputs_of(1) == {"question": "!"}
    assert Dataset.decode("golden", 1, dataset.inputs, dataset.lines).rows == dataset.rows
    with pytest.raises(DatasetError, match="example 1 of 'golden': it lacks the input field 'contxt'"):
        build({"question": "?", "context": "c"}, inputs=["question", "contxt?"])
    assert build({"really?": 1}, inputs=["really?"]).inputs == ("really?",)


@pytest.mark.parametrize("name", ["", "-golden", "gol den", "golden:3", "x" * 101, 7])
def test_a_name_that_a_reference_can_not_have_is_refused(name: Any) -> None:
    with pytest.raises(DatasetError, match="a name is 1 to 100 letters"):
        Dataset.build(name, ROWS, inputs=["question"])


def test_rows_load_no_dspy() -> None:
    code = (
        "import sys; from snakepit_bridge.datasets.dataset import Dataset;"
        "print(Dataset.build('x', [{'q': 1}], inputs=['q']).digest, 'dspy' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split()[1] == "False"
