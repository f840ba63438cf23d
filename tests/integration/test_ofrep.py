"""The OpenFeature Remote Evaluation Protocol at the gateway: variables as flags, under the predictions' assignment."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Any

import httpx
import jsonschema
import pytest

from snakepit_bridge.client import Fleet
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.experiment_changes import ExperimentEvent
from snakepit_bridge.rollouts.experiments import Experiment, assign_experiment, encode_experiments
from snakepit_bridge.rollouts.records import POLICY_VARIABLE, RolloutRecord, RolloutState, assign
from snakepit_bridge.variables import Variable, VariableType
from tests.integration.gateway_clients import gateway, grants, http
from workers.gateway import Gateway

FLAGS = "/ofrep/v1/evaluate/flags"
CONTEXT = {"targetingKey": "user-42", "session": "user-1"}
POLICY = '{"stages": [{"share": 0.5, "min_s": 86400}]}'

# What the protocol's OpenAPI document, version 0.3, requires of each answer.
METADATA = {"type": "object", "additionalProperties": {"type": ["boolean", "string", "number"]}}
SUCCESS = {
    "type": "object",
    "required": ["key", "value", "reason", "variant"],
    "properties": {
        "key": {"type": "string"},
        "value": {"type": ["boolean", "string", "number", "object"]},
        "reason": {"enum": ["STATIC", "TARGETING_MATCH", "SPLIT", "DISABLED", "UNKNOWN"]},
        "variant": {"type": "string"},
        "metadata": METADATA,
    },
}
CODES = ["PARSE_ERROR", "TARGETING_KEY_MISSING", "INVALID_CONTEXT", "GENERAL"]


def failure(*codes: str, key: bool = True) -> dict[str, Any]:
    required = ["errorCode", "errorDetails", *(["key"] if key else [])]
    return {"type": "object", "required": required, "properties": {"errorCode": {"enum": list(codes)}}}


BULK = {
    "type": "object",
    "required": ["flags"],
    "properties": {
        "flags": {"type": "array", "items": {"oneOf": [SUCCESS, failure("FLAG_NOT_FOUND", *CODES)]}},
        "metadata": METADATA,
    },
}


@pytest.fixture
async def served(redis_url: str) -> AsyncGenerator[Gateway]:
    async with gateway(redis_url, grants=grants()) as running:
        yield running


@pytest.fixture
async def client(served: Gateway) -> AsyncGenerator[httpx.AsyncClient]:
    async with http(served.http_address, "reader") as connected_client:
        yield connected_client


async def publish(redis_url: str, values: Mapping[str, Any], session: str = "user-1") -> Token:
    return await Fleet(redis_url).session(session).set_variables(values)


async def stage(redis_url: str, share: int, state: RolloutState = RolloutState.RUNNING) -> RolloutRecord:
    """Take the open rollout to a stage that counts from now on."""
    store = Fleet(redis_url).store
    record = (await store.head("user-1")).rollout
    assert record is not None
    after = replace(record.change(state, stage=1, share=share), since_us=1)
    return await store.step_rollout("user-1", record, RolloutEvent("stage", after))


async def evaluate(client: httpx.AsyncClient, name: str, **attributes: Any) -> dict[str, Any]:
    answer = await client.post(f"{FLAGS}/{name}", json={"context": {**CONTEXT, **attributes}})
    assert answer.status_code == 200, answer.text
    jsonschema.validate(answer.json(), SUCCESS)
    return answer.json()


async def test_a_variable_of_each_type_is_a_flag_of_its_type(client: httpx.AsyncClient, redis_url: str) -> None:
    tensor = Variable.declare("weights", {"shape": [1, 2], "data": [[1.0, 2.5]]}, VariableType.TENSOR)
    await Fleet(redis_url).store.publish("user-1", {"weights": tensor})
    values: dict[str, Any] = {
        "warmth": 1.0,
        "tries": 2**70,
        "model": "gpt",
        "verbose": True,
        "centre": [0.5, 1.5],
        "a/b c": "slashed",
    }
    token = await publish(redis_url, values)
    expected = {
        **values,
        "centre": {"data": [0.5, 1.5], "shape": [2]},
        "weights": {"data": [[1.0, 2.5]], "shape": [1, 2]},
    }
    for name, value in expected.items():
        found = await evaluate(client, name)
        assert (found["key"], found["value"], type(found["value"])) == (name, value, type(value))
        assert (found["reason"], found["variant"]) == ("STATIC", "default")
        assert found["metadata"] == {"session": "user-1", "token": str(token)}


@pytest.mark.parametrize("name", ["coldness", "dspex.on_refused"])
async def test_a_flag_that_is_not_there_is_not_found(client: httpx.AsyncClient, redis_url: str, name: str) -> None:
    await publish(redis_url, {"warmth": 0.5, "dspex.on_refused": "fail"})
    for session in ("user-1", "user-never-published"):
        answer = await client.post(f"{FLAGS}/{name}", json={"context": {"targetingKey": "u", "session": session}})
        assert answer.status_code == 404
        jsonschema.validate(answer.json(), failure("FLAG_NOT_FOUND"))
        assert answer.json()["key"] == name
    assert answer.json()["errorDetails"] == "Session 'user-never-published' was never published."


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "PARSE_ERROR"),
        (b"[]", "PARSE_ERROR"),
        (b"", "PARSE_ERROR"),
        (b"{}", "TARGETING_KEY_MISSING"),
        (b'{"context": {}}', "TARGETING_KEY_MISSING"),
        (b'{"context": {"targetingKey": ""}}', "TARGETING_KEY_MISSING"),
        (b'{"context": 1}', "INVALID_CONTEXT"),
        (b'{"context": {"targetingKey": 7}}', "INVALID_CONTEXT"),
        (b'{"context": {"targetingKey": "%s"}}' % (b"x" * 1_025), "INVALID_CONTEXT"),
        (b'{"context": {"targetingKey": "u", "session": 7}}', "INVALID_CONTEXT"),
        (b'{"context": {"targetingKey": "u", "session": " "}}', "INVALID_CONTEXT"),
    ],
)
async def test_a_malformed_request_is_refused_by_the_protocols_code(
    client: httpx.AsyncClient, body: bytes, code: str
) -> None:
    headers = {"content-type": "application/json"}
    single = await client.post(f"{FLAGS}/warmth", content=body, headers=headers)
    bulk = await client.post(FLAGS, content=body, headers=headers)
    assert (single.status_code, bulk.status_code) == (400, 400)
    assert (single.json()["errorCode"], bulk.json()["errorCode"], single.json()["key"]) == (code, code, "warmth")
    jsonschema.validate(single.json(), failure(*CODES))
    jsonschema.validate(bulk.json(), failure(*CODES, key=False))


async def test_a_number_that_json_can_not_hold_fails_alone(client: httpx.AsyncClient, redis_url: str) -> None:
    await publish(redis_url, {"warmth": 0.5, "limit": float("inf"), "centre": [0.5, float("nan")]})
    single = await client.post(f"{FLAGS}/limit", json={"context": CONTEXT})
    assert (single.status_code, single.json()["errorCode"]) == (400, "GENERAL")
    bulk = (await client.post(FLAGS, json={"context": CONTEXT})).json()
    jsonschema.validate(bulk, BULK)
    assert {flag["key"]: flag.get("errorCode", flag.get("value")) for flag in bulk["flags"]} == {
        "warmth": 0.5, "limit": "GENERAL", "centre": "GENERAL",
    }  # fmt: skip


async def test_keys_get_the_arms_that_predictions_get(client: httpx.AsyncClient, redis_url: str) -> None:
    first = await publish(redis_url, {"warmth": 0.1, POLICY_VARIABLE: POLICY})
    second = await publish(redis_url, {"warmth": 0.9})
    found = await evaluate(client, "warmth")
    assert (found["value"], found["reason"], found["variant"]) == (0.1, "STATIC", "baseline"), "no stage has begun"

    record = await stage(redis_url, 300_000)
    for user in (f"user-{number}" for number in range(100)):
        expected = assign(record, user, 2.0, "session:user-1")
        while (found := await evaluate(client, "warmth", targetingKey=user))["reason"] != "SPLIT":
            pass  # until the gateway has heard of the stage
        token, value = (second, 0.9) if expected.arm == "candidate" else (first, 0.1)
        assert (found["value"], found["variant"]) == (value, expected.arm)
        assigned = {"rollout": record.id, "stage": 1}
        assert found["metadata"] == {"session": "user-1", "token": str(token), **assigned}
    bulk = [await client.post(FLAGS, json={"context": {**CONTEXT, "targetingKey": f"user-{n}"}}) for n in range(50)]
    arms = Counter(answer.json()["flags"][0]["variant"] for answer in bulk)
    assert set(arms) == {"baseline", "candidate"}

    await stage(redis_url, 0, RolloutState.ROLLED_BACK)
    while (found := await evaluate(client, "warmth"))["reason"] != "STATIC":
        pass
    assert (found["value"], found["variant"]) == (0.1, "baseline")


async def test_the_arms_of_an_experiment_are_evaluated_within_its_segment(
    client: httpx.AsyncClient, redis_url: str
) -> None:
    cold, warm, latest = [await publish(redis_url, {"warmth": value}) for value in (0.1, 0.5, 0.9)]
    segment = {"properties": {"plan": {"const": "pro"}}, "required": ["plan"]}
    arms = [{"name": n, "weight": 0.5, "revision": str(token)} for n, token in (("cold", cold), ("warm", warm))]
    experiment = Experiment.model_validate({"id": "e-1", "name": "tone", "segment": segment, "arms": arms})
    event = ExperimentEvent("started", experiment, "ann", "try")
    await Fleet(redis_url).store.change_experiments("user-1", "", encode_experiments([experiment]), event)
    while (await evaluate(client, "warmth", plan="pro"))["reason"] != "SPLIT":
        pass  # until the gateway has heard of it
    of_arm = {"cold": (0.1, cold), "warm": (0.5, warm)}
    for user in (f"user-{number}" for number in range(20)):
        expected = assign_experiment([experiment], user, {"plan": "pro"}, "session:user-1")
        assert expected is not None
        found = await evaluate(client, "warmth", targetingKey=user, plan="pro", nested={"ignored": 1})
        value, token = of_arm[expected.arm]
        assert (found["value"], found["variant"]) == (value, expected.arm)
        assert found["metadata"] == {"session": "user-1", "token": str(token), "experiment": "tone"}
        found = await evaluate(client, "warmth", targetingKey=user, plan="free")
        assert (found["value"], found["reason"], found["metadata"]["token"]) == (0.9, "STATIC", str(latest))


async def test_all_flags_have_a_tag_that_changes_with_them(client: httpx.AsyncClient, redis_url: str) -> None:
    empty = await client.post(FLAGS, json={"context": CONTEXT})
    assert (empty.status_code, empty.json()["flags"]) == (200, [])
    await publish(redis_url, {"warmth": 0.5, "model": "gpt", "dspex.on_refused": "fail"})
    while (answer := await client.post(FLAGS, json={"context": CONTEXT})).json()["flags"] == []:
        pass
    jsonschema.validate(answer.json(), BULK)
    assert [flag["key"] for flag in answer.json()["flags"]] == ["model", "warmth"]
    tag = answer.headers["etag"]
    for known in (tag, tag.strip('"'), f'"other", W/{tag}', "*"):
        same = await client.post(FLAGS, json={"context": CONTEXT}, headers={"if-none-match": known})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    await publish(redis_url, {"warmth": 0.6})
    known = {"if-none-match": tag}
    while (newer := await client.post(FLAGS, json={"context": CONTEXT}, headers=known)).status_code == 304:
        pass  # until the gateway has heard of the publish
    assert newer.status_code == 200
    assert newer.headers["etag"] != tag


async def test_tokens_scopes_and_sessions_are_checked_and_a_key_is_a_token(served: Gateway, redis_url: str) -> None:
    await publish(redis_url, {"warmth": 0.5})
    body = {"context": CONTEXT}
    async with http(served.http_address, None) as anybody:
        answer = await anybody.post(f"{FLAGS}/warmth", json=body)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert (await anybody.post(FLAGS, json=body, headers={"x-api-key": "forged"})).status_code == 401
        for headers in ({"x-api-key": "reader"}, {"authorization": "Bearer reader"}):
            assert (await anybody.post(f"{FLAGS}/warmth", json=body, headers=headers)).status_code == 200
        for token in ("predictor", "other"):
            answer = await anybody.post(f"{FLAGS}/warmth", json=body, headers={"x-api-key": token})
            assert answer.status_code == 403
            assert token in answer.json()["errorDetails"]
        page = {"x-api-key": "reader", "origin": "https://evil.example"}
        assert (await anybody.post(FLAGS, json=body, headers=page)).status_code == 403


async def test_too_many_calls_are_told_when_to_try_again(redis_url: str) -> None:
    async with gateway(redis_url, grants=grants(calls_per_s=1)) as running, http(running.http_address) as client:
        answers = [await client.post(f"{FLAGS}/warmth", json={"context": CONTEXT}) for _ in range(3)]
        assert answers[-1].status_code == 429
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert "errorDetails" in answers[-1].json()


async def test_without_a_session_the_flags_are_those_of_the_default_one(served: Gateway, redis_url: str) -> None:
    await publish(redis_url, {"warmth": 0.25}, "default")
    async with http(served.http_address) as client:
        answer = await client.post(f"{FLAGS}/warmth", json={"context": {"targetingKey": "user-42"}})
        assert answer.json()["value"] == 0.25
        assert answer.json()["metadata"]["session"] == "default"
