"""What each release has written is read by this one, and this one writes the same as the last."""

from __future__ import annotations

import json
from typing import Any

import pytest
from redis import Redis

from snakepit_bridge.client.submission import Reservation
from snakepit_bridge.programs.spec import ProgramSpec
from snakepit_bridge.protocol.messages import VERSION, Result
from snakepit_bridge.protocol.provenance import Provenance
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.data_format import DATA_FORMAT
from snakepit_bridge.rollouts.records import RolloutRecord
from snakepit_bridge.snapshots import RedisStore, Retention
from snakepit_bridge.variables import Variable
from tasks.requests import parse_request
from tests.harness import golden

RELEASES = golden.releases()


def test_this_release_is_recorded() -> None:
    assert golden.version() in RELEASES, "record what it writes: python -m tests.harness.golden"


def test_this_release_writes_what_the_last_one_wrote() -> None:
    """Whatever differs needs a version of its own, so that the other side can tell."""
    assert golden.load(RELEASES[-1], "records")["request"]["keywords"]["v"] == VERSION
    assert json.loads(json.dumps(golden.written())) == golden.load(RELEASES[-1], "records")


@pytest.mark.parametrize("release", RELEASES)
def test_records_of_a_release_are_read(release: str) -> None:
    found = golden.load(release, "records")
    sent = found["request"]
    assert parse_request(sent["program"], sent["inputs"], sent["keywords"], namespace="dspex") == golden.REQUEST
    result = Result.decode(found["result"])
    assert (result.outputs, result.completions) == (golden.RESULT.outputs, golden.RESULT.completions)
    assert Provenance.decode(result.provenance) == golden.PROVENANCE
    spec = ProgramSpec.parse(found["spec"], program="golden")
    # Its digest names the program's version, so the text has to stay.
    assert (spec, spec.encode().decode()) == (golden.SPEC, found["spec"])
    variables = [Variable.decode(name, text.encode()) for name, text in found["variables"].items()]
    assert {variable.name: variable for variable in variables} == {each.name: each for each in golden.VARIABLES}
    assert RolloutRecord.parse(found["rollout"]) == golden.ROLLOUT
    assert Reservation.parse(found["reservation"]) == golden.RESERVATION
    assert Retention.parse(found["retention"]) == Retention(10, 60.0, 3_600.0)
    assert Token.parse(found["token"]) == Token(5, 2)
    assert int(found["format"]) <= DATA_FORMAT


@pytest.mark.parametrize("release", RELEASES)
async def test_a_session_of_a_release_is_read_and_goes_on(release: str, redis_url: str) -> None:
    recorded = golden.load(release, "server")
    with Redis.from_url(redis_url) as client:
        golden.restore_session(client, recorded)
    store = RedisStore(redis_url)
    try:
        snapshot = await store.read(golden.SESSION)
        expected = {each.name: each.value for each in golden.VARIABLES} | {"strict": False}
        assert {name: each.value for name, each in snapshot.variables.items()} == expected
        assert snapshot.token.revision == 2
        assert [(each.author, each.reason) for each in await store.history(golden.SESSION)] == [
            ("golden", "second"), ("golden", "first")
        ]  # fmt: skip
        token = await store.publish(golden.SESSION, {"strict": golden.VARIABLES[3]}, expected=snapshot.token)
        assert token > snapshot.token
    finally:
        await store.aclose()


@pytest.mark.parametrize("release", RELEASES)
def test_messages_of_a_release_say_what_they_are(release: str) -> None:
    messages: list[dict[str, Any]] = golden.load(release, "server")["messages"]
    assert sorted(message["headers"]["task"] for message in messages) == [
        "tasks.predict", "tasks.predict", "tasks.predict_batch"
    ]  # fmt: skip
    assert {message["content-type"] for message in messages} == {"application/json"}
