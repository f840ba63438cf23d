"""Results as messages: what a program has of it is there, and what it hasn't is absent."""

from __future__ import annotations

import json

from snakepit_bridge.client.results import TaskResult
from snakepit_bridge.protocol.messages import Result
from tests.unit.protocol.test_provenance import SAMPLE
from workers.gateway.api.converters import prediction_message
from workers.gateway.http.transcoding import message_to_json


def test_every_completion_and_every_step_is_there() -> None:
    completions, trace = [{"answer": "a"}, {"answer": "b"}], [{"predictor": "self", "outputs": {"answer": "a"}}]
    result = Result({"answer": "a"}, SAMPLE.encode(), completions=completions, trace=trace)
    message = prediction_message("id", TaskResult("SUCCESS", result=result))
    assert json.loads(message.completions_json) == completions
    assert json.loads(message.trace_json) == trace
    assert message_to_json(message)["completions"] == completions


def test_what_a_result_has_not_is_absent() -> None:
    message = prediction_message("id", TaskResult("SUCCESS", result=Result({"answer": "a"}, SAMPLE.encode())))
    assert not {"completions", "trace"} & message_to_json(message).keys()


def test_an_arm_of_an_experiment_is_there_with_its_name_and_what_a_newer_worker_adds_is_left_out() -> None:
    arm = {"rollout": "7", "arm": "warm", "stage": 0, "target": "session:s", "experiment": "warmth", "later": 1}
    provenance = {**SAMPLE.encode(), "arms": [arm]}
    message = prediction_message("id", TaskResult("SUCCESS", result=Result({"answer": "a"}, provenance)))
    (found,) = message.provenance.arms
    assert (found.rollout, found.arm, found.experiment) == ("7", "warm", "warmth")
