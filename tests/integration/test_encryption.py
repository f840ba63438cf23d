"""A fleet with encryption keys: everything works as without, and Redis holds nothing of what was asked and answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import dspy
import pytest
from celery import chord
from redis import Redis

from snakepit_bridge.client import Fleet
from snakepit_bridge.encryption.cipher import EncryptionOptions
from snakepit_bridge.encryption.keys import KeyRing, generate_key
from snakepit_bridge.exceptions import BridgeError, DecryptionError, PredictionGivenUpError
from snakepit_bridge.process.home_loop import run_blocking
from tests.harness import programs
from tests.harness.redis_dump import dump
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, wait_until
from tests.integration.gateway_clients import connected, gateway

CANARY = "canary-0815"
NEW, DIGESTS, OLD = (generate_key(name) for name in ("2026-11", "digests", "2026-05"))


def options(*keys: str, accepts_plain: bool = False) -> EncryptionOptions:
    return EncryptionOptions(KeyRing.parse(" ".join(keys)), accepts_plain=accepts_plain)


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    folder = tmp_path_factory.mktemp("encrypted")
    keys = folder / "keys"
    keys.write_text("\n".join((NEW, DIGESTS, OLD)), encoding="utf-8")
    with stage(
        folder,
        encryption=options(NEW, DIGESTS, OLD),
        DSPEX_ENCRYPTION_KEYS_FILE=str(keys),
        DSPEX_PAYLOAD_BYTES="1000",
        DSPEX_ALLOWED_PACKAGES="tests",
    ) as playing:
        yield playing


def ask(name: str = "q") -> str:
    return f"{CANARY} {fresh(name)}"


def test_a_prediction_comes_back_and_redis_shows_nothing_of_it(play: Stage) -> None:
    fleet, session = play.fleet, fresh("s")
    fleet.register(
        "styled", dspy.Predict("question -> answer"), bindings={"instructions": "style"}, cache={"ttl_s": 60}
    )
    token = fleet.session(session).blocking.register_variable("style", "string", f"{CANARY} style")
    question = ask()
    handle = fleet.submit("styled", {"question": question}, session=session, at_least=token, stream=True)
    assert "".join(run_blocking(collect(handle.stream()))) == f"answer of {question}"
    found = handle.get()
    assert found.answer == f"answer of {question}"
    assert found.provenance.variables == {"style": f"{CANARY} style"}
    fleet.register("qa", dspy.Predict("question -> answer"))
    batch = fleet.submit_batch("qa", [{"question": ask()} for _ in range(3)], idempotency_keys=["a", "b", "c"])
    assert all(each.get().answer.startswith(f"answer of {CANARY}") for each in batch)
    large = "x".join([CANARY] * 30_000)
    assert (
        fleet.submit("styled", {"question": large}, session=session, exactly=token).get().answer == f"answer of {large}"
    )
    assert fleet.replay(handle.id, timeout=PATIENCE_S).first.answer == found.answer
    steps = fleet.signature("qa", {"question": ask()}) | fleet.signature("qa", take={"question": "answer"})
    assert fleet.handle(steps.apply_async().id).get().answer.startswith(f"answer of answer of {CANARY}")
    fleet.register("judge", dspy.Predict("answers: list[str] -> verdict"))
    both = chord([fleet.signature("qa", {"question": ask()}) for _ in "ab"])(
        fleet.signature("judge", take={"answers": "answer"})
    )
    assert CANARY in fleet.handle(both.id).get().verdict
    assert CANARY not in dump(play.url)


async def collect(chunks: Any) -> list[str]:
    return [chunk.text async for chunk in chunks]


def test_an_error_arrives_as_itself_and_says_nothing_in_redis(play: Stage) -> None:
    fleet = play.fleet
    registering = Fleet(play.url, allowed_packages=["tests"])
    registering.register("quoting", programs.Quotes())
    handle = fleet.submit("quoting", {"question": ask()})
    with pytest.raises(BridgeError) as failed:
        handle.get()
    assert CANARY in str(failed.value)
    assert type(failed.value) is not DecryptionError
    assert CANARY not in dump(play.url)


def test_a_recorded_prediction_is_encrypted_and_makes_a_dataset(play: Stage) -> None:
    fleet = play.fleet
    fleet.register("kept", dspy.Predict("question -> answer"))
    fleet.recorders.set("kept")

    def is_recorded() -> bool:
        fleet.submit("kept", {"question": ask()}).get()
        return fleet.recorders.list()[0].count.records > 0

    wait_until(is_recorded, "a prediction to be recorded")
    assert CANARY not in dump(play.url)
    dataset = fleet.datasets.from_predictions("kept", "hard", since_s=600)
    assert CANARY in str(dataset.rows)
    fleet.recorders.remove("kept", erase=True)


async def test_a_gateway_encrypts_what_its_clients_publish_and_submit(play: Stage) -> None:
    await asyncio.to_thread(play.fleet.register, "qa", dspy.Predict("question -> answer"))
    async with (
        gateway(play.url, encryption=options(NEW, DIGESTS, OLD)) as served,
        connected(served.grpc_address) as client,
    ):
        session, question = fresh("s"), ask()
        await client.publish(session, style=f"{CANARY} style")
        assert await client.values(session) == {"style": f"{CANARY} style"}
        id_ = await client.submit("qa", session, {"question": question})
        found = await asyncio.to_thread(play.fleet.handle(id_).get)
        assert found.answer == f"answer of {question}"
    assert CANARY not in dump(play.url)


def test_inputs_moved_to_another_message_or_unencrypted_ones_are_not_run(play: Stage) -> None:
    play.fleet.register("qa", dspy.Predict("question -> answer"))
    question = ask()
    with play.held():
        moved, plain = play.fleet.submit("qa", {"question": question}), Fleet(play.url, wait_s=30)
        unencrypted = plain.submit("qa", {"question": ask()})
        with Redis.from_url(play.url) as client:
            [queued] = [key for key in client.scan_iter("predictions*") if client.llen(key)]
            messages: Any = [json.loads(each) for each in client.lrange(queued, 0, -1)]
            [own] = [each for each in messages if each["headers"]["id"] == moved.id]
            own["headers"]["id"] = own["properties"]["correlation_id"] = other = fresh("task")
            client.lpush(queued, json.dumps(own))
    assert moved.get().answer == f"answer of {question}"
    with pytest.raises(PredictionGivenUpError, match="moved here from another place"):
        play.fleet.handle(other).get(PATIENCE_S)
    with pytest.raises(PredictionGivenUpError, match="DSPEX_ENCRYPTION_ACCEPTS_PLAIN"):
        play.fleet.handle(unencrypted.id).get(PATIENCE_S)


def test_a_result_put_in_anothers_place_is_refused(play: Stage) -> None:
    play.fleet.register("qa", dspy.Predict("question -> answer"))
    first, second = (play.fleet.submit("qa", {"question": ask()}) for _ in range(2))
    assert first.get() is not None
    assert second.get() is not None
    with Redis.from_url(play.url) as client:
        client.copy(f"celery-task-meta-{first.id}", f"celery-task-meta-{second.id}", replace=True)
    with pytest.raises(DecryptionError, match="another prediction's"):
        play.fleet.handle(second.id).get(PATIENCE_S)


def test_a_client_without_keys_names_the_key_that_it_lacks(play: Stage) -> None:
    fleet, session = Fleet(play.url, wait_s=5), fresh("s")
    play.fleet.session(session).blocking.register_variable("t", "float", 0.5)
    with pytest.raises(DecryptionError, match=r"variable .* key '2026-11', and this process has no keys"):
        fleet.session(session).blocking.get_variable("t")
    play.fleet.register("qa", dspy.Predict("question -> answer"))
    handle = play.fleet.submit("qa", {"question": ask()})
    handle.get()
    with pytest.raises(DecryptionError, match="no keys"):
        fleet.handle(handle.id).get()


def test_a_message_under_an_unknown_key_is_kept_and_runs_once_its_key_is_there(play: Stage, tmp_path: Path) -> None:
    """The dead-letter list has it unchanged; its client is told which key lacks."""
    play.fleet.register("qa", dspy.Predict("question -> answer"))
    lost, keys = generate_key("lost"), tmp_path / "keys"
    keys.write_text(f"{NEW} {DIGESTS} {OLD} {lost}", encoding="utf-8")
    stranger = Fleet(play.url, wait_s=30, encryption=options(lost, DIGESTS, NEW))
    single = stranger.submit("qa", {"question": ask()})
    batch = stranger.submit_batch("qa", [{"question": ask()} for _ in range(2)])
    for handle in (single, *batch):
        with pytest.raises(PredictionGivenUpError, match=r"key 'lost', and this process has 2026-11, 2026-05"):
            handle.get()
    sent = {handle.id for handle in (single, *batch)}
    letters = [letter for letter in play.fleet.dead_letters.latest() if sent.issuperset(letter.task_ids)]
    assert [(letter.reason, letter.deliveries) for letter in letters] == [("rejected", 1)] * 2
    with play.held():
        for letter in letters:
            play.fleet.dead_letters.retry(letter.id)
        play.start(env={"DSPEX_ENCRYPTION_KEYS_FILE": str(keys)})
        assert all(CANARY in handle.get().answer for handle in (single, *batch))
