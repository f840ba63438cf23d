"""The fleet without workers: what it opens, what it refuses, what it makes of programs, sessions and signatures."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import dspy
import pytest
from kombu import pools
from redis import Redis

from snakepit_bridge.client import Fleet, Handle
from snakepit_bridge.exceptions import (
    PredictionTimeoutError,
    ProgramNotFoundError,
    ProgramSpecError,
    SessionNotFoundError,
)
from snakepit_bridge.programs.build import serialize_module
from tests.harness.leaks import connections
from tests.harness.waiting import wait_until

QA = {"module": "Predict", "signature": "question -> answer"}


def test_the_inputs_are_the_messages_own(redis_url: str) -> None:
    fleet, inputs = Fleet(redis_url), {"question": "why?"}
    first = fleet.submit("qa", inputs)
    inputs["question"] = "changed"
    second = fleet.submit("qa", inputs)
    assert isinstance(first, Handle)
    assert first.id != second.id
    with Redis.from_url(redis_url) as client:
        # Priority 5 waits in the list of step 3; the newest is at the left.
        stored = [json.loads(message)["headers"]["id"] for message in client.lrange("predictions\x06\x163", 0, -1)]
    assert stored == [second.id, first.id]


def test_many_inputs_are_not_sent_to_a_session_that_was_never_published(redis_url: str, tmp_path: Path) -> None:
    fleet, inputs = Fleet(redis_url), [{"question": "why?"}]
    fleet.register("qa", dspy.Predict("question -> answer"))
    fleet.session("shop").blocking.set_variable("n", 1)
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps(inputs[0]), encoding="utf-8")
    for send in (
        lambda: fleet.map("qa", inputs, session="shopp"),
        lambda: fleet.map_file("qa", source, output, session="shopp"),
    ):
        with pytest.raises(SessionNotFoundError, match=r"Session not found: shopp\. Did you mean 'shop'\?"):
            send()
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
    with Redis.from_url(redis_url) as client:
        assert not client.keys("predictions*")
        # What may still run: the default session, and one that a refresher can follow.
        fleet.map("qa", inputs)
        client.zadd("dspex:refreshers", {"one": 1})
        client.expire("dspex:refreshers", 60)
        fleet.map("qa", inputs, session="shopp")


def test_a_program_keeps_its_version_until_it_changes(redis_url: str) -> None:
    fleet = Fleet(redis_url)
    first = fleet.register("qa", dspy.Predict("question -> answer"))
    assert fleet.register("qa", dspy.Predict("question -> answer")).version == first.version == 1
    changed = fleet.register("qa", dspy.ChainOfThought("question -> answer"))
    assert changed.version == 2
    assert [(program.name, program.latest) for program in fleet.programs()] == [("qa", 2)]


def test_a_program_is_registered_from_a_module_a_spec_a_mapping_or_text(redis_url: str) -> None:
    fleet = Fleet(redis_url)
    spec = serialize_module(dspy.Predict("question -> answer"), program="qa")
    forms: list[Any] = [dspy.Predict("question -> answer"), spec, json.loads(spec.encode()), spec.encode().decode()]
    assert {fleet.register("qa", form).digest for form in forms} == {fleet.register("qa", spec).digest}


def test_bindings_arguments_and_profile_are_added_to_a_given_spec(redis_url: str) -> None:
    fleet = Fleet(redis_url)
    spec = fleet.register("qa", QA, {"temperature": "temp"}, arguments={"max_tokens": 7}, lm="smart").spec
    assert (spec.bindings, spec.arguments, spec.lm) == ({"temperature": "temp"}, {"max_tokens": 7}, "smart")
    kept = fleet.register("qa", {**QA, "bindings": {"temperature": "temp"}, "lm": "smart"}).spec
    assert (kept.bindings, kept.lm) == ({"temperature": "temp"}, "smart")


def test_a_module_variable_is_declared_with_what_it_may_choose(redis_url: str) -> None:
    fleet = Fleet(redis_url)
    spec = fleet.register(
        "qa", dspy.Predict("question -> answer"), choose_by="strategy", among=("Predict", "ChainOfThought")
    ).spec
    assert spec.module_names == ("Predict", "ChainOfThought")


def test_a_binding_that_fits_none_of_a_modules_attributes_stores_nothing(redis_url: str) -> None:
    fleet = Fleet(redis_url)
    with pytest.raises(ProgramSpecError, match=r"refused at bindings\.temprature"):
        fleet.register("qa", QA, {"temprature": "temp"})
    assert fleet.programs() == []


def test_a_label_is_moved_from_version_to_version(redis_url: str) -> None:
    fleet = Fleet(redis_url)
    fleet.register("qa", dspy.Predict("question -> answer"))
    fleet.register("qa", dspy.ChainOfThought("question -> answer"))
    fleet.label("qa", "prod", 1)
    assert fleet.programs()[0].labels == {"prod": 1}
    fleet.label("qa", "prod", 2)
    assert fleet.programs()[0].labels == {"prod": 2}
    with pytest.raises(ProgramNotFoundError, match="qa:9"):
        fleet.label("qa", "prod", 9)


def test_namespaces_keep_fleets_apart(redis_url: str) -> None:
    Fleet(redis_url, namespace="one").register("qa", QA)
    assert Fleet(redis_url, namespace="two").programs() == []


def test_a_session_publishes_into_the_fleets_store(redis_url: str) -> None:
    fleet = Fleet(redis_url, namespace="one")
    token = fleet.session("s", author="me").blocking.set_variables({"temp": 0.5})
    assert fleet.session("s").blocking.snapshot().token == token
    assert fleet.session("s").blocking.get_variables() == {"temp": 0.5}


def test_a_fleet_that_nobody_holds_any_more_leaves_no_connection_of_its_own(redis_url: str) -> None:
    before, fleet = connections(redis_url), Fleet(redis_url)
    with pytest.raises(PredictionTimeoutError):
        fleet.submit("qa", {"question": "why?"}).get(timeout=0.1)
    fleet.session("s").blocking.register_variable("temperature", "float", 0.5)
    pools.reset()  # kombu keeps those to the broker for the next fleet
    assert connections(redis_url) - before
    del fleet

    def closed() -> bool:
        gc.collect()
        return not connections(redis_url) - before

    wait_until(closed, "its connections to be closed")
