"""The collector of batches: what providers answer, refuse, lose and let expire, and what becomes of the predictions."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from typing import Any

import pytest
from pydantic import SecretStr
from redis import Redis

from snakepit_bridge.client.lm_batches import AsyncLMBatches
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.lm.policies import BatchPolicy
from snakepit_bridge.lm.profiles import LMProfile, LMProfiles
from snakepit_bridge.lm_batches.records import BatchState, WaitingRequest
from snakepit_bridge.lm_batches.store import LMBatchStore
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.lease import Leases
from snakepit_bridge.testing import RecordingLM
from tasks.journal.store import JournalStore
from tasks.lm_batches.collector import LMBatchCollector
from tests.harness.stage import echo
from tests.harness.waiting import eventually

# What the broker's claims do: a message that is held once.
CLAIM_TAKE = """
local function claim_take(base, tag)
  if redis.call('DEL', base .. tag) == 1 then
    return 'predictions', 'message of ' .. tag
  end
end
"""
KEY = "sesame"
POLICY = BatchPolicy(wait_s=0.0, poll_s=0.1, send_timeout_s=1.0, tries=2)
PATHS = {"openai": "/chat/completions", "claude": "/messages"}


@pytest.fixture
def lm() -> Generator[RecordingLM]:
    with RecordingLM(echo, api_key=KEY) as server:
        yield server


class Fleet:
    """What a worker has of batches, and a broker with held messages."""

    def __init__(self, url: str, lm: RecordingLM, key: str = KEY) -> None:
        self.connection = RedisConnection(url)
        self.redis = Redis.from_url(url, decode_responses=True)
        self.store = LMBatchStore(self.connection, namespace="dspex", claim_take=CLAIM_TAKE)
        self.journals = JournalStore(self.connection, namespace="dspex", keep_s=60)
        models = {"openai": "openai/night", "claude": "anthropic/night"}
        self.profiles = LMProfiles(
            LMProfile(name, model, lm.url, SecretStr(key), tier="batch", batch=POLICY) for name, model in models.items()
        )
        self.ended: set[str] = set()
        self.collectors: list[LMBatchCollector] = []

    async def park(self, task: str, profile: str, count: int = 1, deadline: float | None = None) -> bool:
        """Parks a prediction that waits for so many requests."""
        body = {"model": "night", "messages": [{"role": "user", "content": f"why {task}?"}]}
        requests = [WaitingRequest(f"{task}-{number}", task, profile, PATHS[profile], body) for number in range(count)]
        self.redis.set(f"held:{task}", 1, ex=60)
        return await self.store.park(task, "held:", task, requests, deadline)

    def collect(self) -> None:
        """Starts a collector."""
        lease = Leases(self.connection, lease_s=1.0).prepare(self.store.lease)
        collector = LMBatchCollector(self.store, self.journals, self.profiles, lease, self._find_ended)
        self.collectors.append(collector)
        collector.start()

    async def _find_ended(self, task_ids: Sequence[str]) -> set[str]:
        return self.ended & set(task_ids)

    def released(self, *tasks: str) -> Callable[[], Awaitable[bool]]:
        async def check() -> bool:
            found: Any = self.redis.lrange("predictions", 0, -1)
            return set(found) >= {f"message of {task}" for task in tasks}

        return check

    def replies(self, task: str) -> list[dict[str, Any]]:
        """Returns the replies in a prediction's journal."""
        found: Any = self.redis.hvals(self.journals.key(task))
        return [json.loads(each) for each in found]

    async def aclose(self) -> None:
        for collector in self.collectors:
            await collector.aclose()
        await self.connection.aclose()
        self.redis.close()


@pytest.fixture
async def fleet(redis_url: str, lm: RecordingLM) -> AsyncIterator[Fleet]:
    fleet = Fleet(redis_url, lm)
    yield fleet
    await fleet.aclose()


both = pytest.mark.parametrize("profile", ["openai", "claude"])


@both
async def test_a_batch_answers_everybody_once(fleet: Fleet, lm: RecordingLM, profile: str) -> None:
    assert await fleet.park("a", profile, 2)
    assert await fleet.park("b", profile)
    assert not await fleet.store.park("c", "held:", "c", [WaitingRequest("c-0", "c", profile, "/x", {})], None)
    fleet.collect()
    await eventually(fleet.released("a", "b"), "both predictions")
    assert sorted(lm.batches.custom_ids()) == ["a-0", "a-1", "b-0"]
    assert [reply["status"] for task in "ab" for reply in fleet.replies(task)] == [200] * 3
    assert await fleet.store.count_parked() == 0
    listing = await AsyncLMBatches(fleet.connection, "dspex").list()
    [batch] = listing.batches
    assert (batch.state, batch.requests, batch.answered) == (BatchState.ended, 3, 3)
    assert (listing.parked, listing.waiting) == (0, {})


@both
async def test_a_creation_whose_reply_was_lost_is_found_again(fleet: Fleet, lm: RecordingLM, profile: str) -> None:
    lm.batches.faults.drop_created = 1
    await fleet.park("a", profile)
    fleet.collect()
    await eventually(fleet.released("a"), "the prediction", timeout_s=40)
    assert lm.batches.custom_ids() == ["a-0"]


@both
async def test_what_an_expired_batch_left_out_is_asked_in_another_one(
    fleet: Fleet, lm: RecordingLM, profile: str
) -> None:
    lm.batches.faults.expire = 1
    for task in ("a", "b"):
        await fleet.park(task, profile)
    fleet.collect()
    await eventually(fleet.released("a", "b"), "both predictions", timeout_s=30)
    assert [len(batch.lines) for batch in lm.batches.batches.values()] == [2, 1]
    assert len(lm.requests) == 2, "what was answered isn't asked again"


async def test_what_no_batch_answers_fails_by_name(fleet: Fleet, lm: RecordingLM) -> None:
    lm.batches.faults.fail = 2
    await fleet.park("a", "openai")
    fleet.collect()
    await eventually(fleet.released("a"), "the prediction", timeout_s=30)
    assert [(reply["status"], reply["body"]) for reply in fleet.replies("a")] == [(0, '{"code": "batch_expired"}')]
    assert len(lm.batches.batches) == 2


async def test_an_error_of_one_line_is_its_reply(fleet: Fleet, lm: RecordingLM) -> None:
    lm.fail(1, status=400, containing="why a?")
    await fleet.park("a", "openai")
    await fleet.park("b", "openai")
    fleet.collect()
    await eventually(fleet.released("a", "b"), "both predictions")
    assert [fleet.replies(task)[0]["status"] for task in "ab"] == [400, 200]


async def test_a_refused_batch_fails_its_predictions(redis_url: str, lm: RecordingLM) -> None:
    fleet = Fleet(redis_url, lm, key="wrong")
    await fleet.park("a", "openai")
    fleet.collect()
    await eventually(fleet.released("a"), "the prediction")
    assert fleet.replies("a")[0]["status"] == 400
    await fleet.aclose()


async def test_nobody_asks_for_a_prediction_that_has_ended(fleet: Fleet, lm: RecordingLM) -> None:
    fleet.ended = {"a"}
    await fleet.park("a", "openai")
    await fleet.park("late", "openai", deadline=time.time() - 1)
    fleet.collect()
    await eventually(fleet.released("a", "late"), "both predictions")
    assert lm.batches.custom_ids() == []
    assert fleet.replies("a") == fleet.replies("late") == []


async def test_a_cancelled_batch_releases_its_predictions(fleet: Fleet, lm: RecordingLM) -> None:
    lm.batches.faults.delay_s = 600
    await fleet.park("a", "openai")
    fleet.collect()
    batches = AsyncLMBatches(fleet.connection, "dspex")

    async def running() -> str:
        return next((batch.id for batch in (await batches.list()).batches if batch.provider_id), "")

    batch = await eventually(running, "the batch to run")
    await batches.cancel(batch)
    await eventually(fleet.released("a"), "the prediction")
    assert "cancel" in fleet.replies("a")[0]["body"]

    async def ended() -> bool:
        return (await batches.get(batch)).state is BatchState.ended

    await eventually(ended, "the batch to end")
    with pytest.raises(BridgeError, match="has ended"):
        await batches.cancel(batch)
    with pytest.raises(BridgeError, match="no batch 'other'"):
        await batches.get("other")


async def test_another_collector_goes_on_where_one_was_lost(fleet: Fleet, lm: RecordingLM) -> None:
    lm.batches.faults.delay_s = 1.0
    await fleet.park("a", "openai")
    fleet.collect()

    async def sent() -> bool:
        return bool(lm.batches.batches)

    await eventually(sent, "a batch")
    await fleet.collectors.pop().aclose()
    fleet.collect()
    await eventually(fleet.released("a"), "the prediction")
    assert lm.batches.custom_ids() == ["a-0"]
