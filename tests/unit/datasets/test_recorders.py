"""A recorder is a variable: what it can't be is refused by name, and what it keeps of a prediction."""

from __future__ import annotations

import json
from typing import Any

import pytest

from snakepit_bridge.datasets.recorders import Recorder, read_recorders
from snakepit_bridge.exceptions import RecorderError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables import Variable


def test_a_recorder_comes_back_from_its_variable() -> None:
    recorder = Recorder("qa.v2", 0.25, ["inputs.q"], ["inputs.email"], ["outputs.name"], 10, 60, False).check()
    assert recorder.variable == "dspex.recorder.qa.v2"
    assert Recorder.decode(recorder.variable, recorder.encode()) == recorder
    assert Recorder.decode("dspex.recorder.qa", "{}") == Recorder("qa")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share": 0}, "the share is above 0; remove the recorder to stop it"),
        ({"share": 1.5}, "The recorder of 'qa' is refused: "),
        ({"keep": ["question"]}, "a field is 'inputs.NAME' or 'outputs.NAME'; got 'question'"),
        ({"drop": ["inputs."]}, "a field is 'inputs.NAME' or 'outputs.NAME'; got 'inputs.'"),
        ({"max_records": 0}, "max_records is 1 to 100000; got 0"),
        ({"expires_s": 91 * 86_400}, "expires_s is 1 to 7776000"),
    ],
)
def test_what_can_not_be_a_recorder_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecorderError) as caught:
        Recorder("qa", **changes).check()
    assert message in str(caught.value)
    with pytest.raises(RecorderError) as caught:
        Recorder.decode("dspex.recorder.qa", json.dumps(changes))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, "its variable is a JSON object as text"),
        ("[]", "its variable is a JSON object as text"),
        ("{", "its variable isn't JSON ("),
        ('{"shares": 1}', "it has shares; a recorder has share, keep, drop, replace, max_records, expires_s, errors"),
        ('{"share": true}', "share can't be True"),
        ('{"errors": 1}', "errors can't be 1"),
        ('{"keep": "inputs.q"}', "keep can't be 'inputs.q'"),
        ('{"keep": [1]}', "keep can't be [1]"),
        ('{"max_records": 1.5}', "max_records can't be 1.5"),
    ],
)
def test_a_variable_that_is_no_recorder_is_an_error_and_the_others_count(value: Any, message: str) -> None:
    kind = "string" if isinstance(value, str) else "integer"
    variables = {"dspex.recorder.qa": Variable.declare("dspex.recorder.qa", value, kind)}
    variables["dspex.recorder.ok"] = Variable.declare("dspex.recorder.ok", "{}")
    variables["warmth"] = Variable.declare("warmth", 0.5)
    recorders, [error] = read_recorders(Snapshot("dspex.recorders", Token(1, 1), variables, 0.0))
    assert recorders == [Recorder("ok")]
    assert message in str(error)


def test_fields_are_kept_dropped_or_replaced() -> None:
    values = {"q": "?", "email": "ann@example.org", "name": "Ann"}
    recorder = Recorder("qa", drop=["inputs.email"], replace=["inputs.name"])
    assert recorder.redact("inputs", values) == {"q": "?", "name": "(removed)"}
    assert recorder.redact("outputs", values) == values
    assert Recorder("qa", keep=["inputs.q"]).redact("inputs", values) == {"q": "?"}
    assert Recorder("qa", keep=["inputs.q"]).redact("outputs", values) == {}
    both = Recorder("qa", keep=["inputs.q", "inputs.email"], drop=["inputs.email"])
    assert both.redact("inputs", values) == {"q": "?"}


def test_its_sample_follows_from_the_ids_alone() -> None:
    covered = [Recorder("qa", 0.3).covers(f"task-{number}") for number in range(2_000)]
    assert covered == [Recorder("qa", 0.3, max_records=1).covers(f"task-{number}") for number in range(2_000)]
    assert 500 < sum(covered) < 700
