"""What becomes of the messages of a worker that hangs: the culprit is given up, everything else goes back uncounted."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr
from redis import Redis

from config.settings import FleetSettings
from snakepit_bridge.delivery.keys import DeliveryKeys
from snakepit_bridge.exceptions import PredictionGivenUpError
from tests.harness.broker import channel, dead, held, put, take
from tests.harness.waiting import Stopwatch
from workers.app import FleetApp
from workers.watchdog.ends import store_ends
from workers.watchdog.evidence import Culprit
from workers.watchdog.settling import ClaimSettlement


def app_at(url: str) -> FleetApp:
    return FleetApp(FleetSettings(redis_url=SecretStr(url), namespace="dspex"))


def settling_of(app: FleetApp) -> ClaimSettlement:
    return ClaimSettlement(app.connection_for_write, lambda summaries: store_ends(app, summaries), holds=True)


def claimed(opened: Any, *ids: str) -> str:
    """Have messages of these tasks claimed, and return the name under which they are held."""
    for task_id in ids:
        put(opened, [], headers={"id": task_id, "task": "tasks.predict"})
    for _ in ids:
        take(opened)
    return opened.leases.worker


def waiting(client: Redis) -> dict[str, int]:
    import json

    found = [json.loads(raw) for name in client.keys("predictions*") for raw in client.lrange(name, 0, -1)]
    return {message["headers"]["id"]: message["properties"].get("deliveries", 1) for message in found}


@pytest.mark.keeps_keys(".*")
def test_the_culprit_is_given_up_by_name_and_the_others_go_back(redis_url: str) -> None:
    app = app_at(redis_url)
    with channel(redis_url, delivery_key="dspex:delivery") as opened, Redis.from_url(redis_url) as client:
        name = claimed(opened, "honest-1", "poison", "honest-2")
        settling_of(app).settle([name], Culprit("poison", "poison", "check"), "it hung", give_up=True)
        assert waiting(client) == {"honest-1": 1, "honest-2": 1}
        [entry] = dead(client, DeliveryKeys("dspex:delivery"))
        assert (entry["task_id"], entry["reason"], entry["error"]) == ("poison", "stalled", "it hung")
        assert held(client, DeliveryKeys("dspex:delivery")) == {}
    ended = app.AsyncResult("poison").result
    assert isinstance(ended, PredictionGivenUpError)
    assert (ended.task_id, ended.reason, ended.error) == ("poison", "stalled", "it hung")


@pytest.mark.keeps_keys(".*")
@pytest.mark.parametrize(
    ("who", "give_up", "counted"),
    [(None, True, {"a": 2, "b": 2}), (Culprit("a", "a", ""), False, {"a": 2, "b": 1})],
)
def test_what_may_be_at_fault_is_counted_as_lost(
    redis_url: str, who: Culprit | None, give_up: bool, counted: dict[str, int]
) -> None:
    with channel(redis_url, delivery_key="dspex:delivery") as opened, Redis.from_url(redis_url) as client:
        name = claimed(opened, "a", "b")
        settling_of(app_at(redis_url)).settle([name], who, "it hung", give_up=give_up)
        assert waiting(client) == counted
        assert dead(client, DeliveryKeys("dspex:delivery")) == []


@pytest.mark.keeps_keys(".*")
def test_all_is_given_back_uncounted(redis_url: str) -> None:
    with channel(redis_url, delivery_key="dspex:delivery") as opened, Redis.from_url(redis_url) as client:
        settling_of(app_at(redis_url)).requeue_all([claimed(opened, "a", "b")])
        assert waiting(client) == {"a": 1, "b": 1}


def test_a_broker_that_is_away_keeps_nobody_waiting() -> None:
    settling, start = settling_of(app_at("redis://127.0.0.1:9/0")), Stopwatch()
    with pytest.raises(Exception, match=r"(?i)connect|refused"):
        settling.renew(["nobody"])
    assert start.elapsed_s < 5
