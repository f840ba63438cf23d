"""The search of recorded predictions: several programs as one list, in pages, by what they ran under and came to."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis

from snakepit_bridge.datasets import search
from snakepit_bridge.datasets.recorded import RecordedPrediction, RecordedPredictions
from snakepit_bridge.datasets.search import PredictionSearch, SearchPosition, search_predictions
from snakepit_bridge.datasets.selection import ScoreCondition
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.releases.scores import Score, Scores

KEYS = FleetKeys()


def record(client: Redis, place: str, program: str = "qa", **changes: Any) -> str:
    """Record a prediction, whose id is its program and place."""
    task_id = f"{program}/{place}"
    fields: dict[str, Any] = {
        "version": 1,
        "session": "user-1",
        "token": "1.2",
        "inputs": {"q": place},
        "outputs": {},
        **changes,
    }
    recorded = RecordedPrediction("", program, **fields)
    client.xadd(KEYS.program_records(program), {"task": task_id, "record": recorded.encode()}, id=place)
    client.expire(KEYS.program_records(program), 60)
    return task_id


def _covers_any(session: str) -> bool:
    return True


class Searching:
    """Searches, and returns ids."""

    def __init__(self, connection: RedisConnection) -> None:
        self.recorded = RecordedPredictions(connection, "dspex")
        self.scores = Scores(connection, "dspex")

    async def page(self, *, size: int = 10, after: str = "", **wanted: Any) -> tuple[list[str], str]:
        fields: dict[str, Any] = {"programs": ["qa"], "covers_session": _covers_any, **wanted}
        searched = PredictionSearch(**fields)
        found = await search_predictions(
            self.recorded, self.scores, searched, size=size, after=SearchPosition.parse(after)
        )
        return [each.recorded.task_id for each in found.predictions], found.next_token

    async def all(self, *, size: int = 10, **wanted: Any) -> list[str]:
        ids, token = await self.page(size=size, **wanted)
        while token:
            more, token = await self.page(size=size, after=token, **wanted)
            ids += more
        return ids


@pytest.fixture
def searching(connection: RedisConnection) -> Searching:
    return Searching(connection)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
async def test_predictions_of_several_programs_are_found_newest_first_each_once(
    searching: Searching, client: Redis, size: int
) -> None:
    places = [f"{1_000 + number // 3}-{number % 3}" for number in range(20)]
    for number, place in enumerate(places):
        record(client, place, "qa")
        if number % 2:
            record(client, place, "sum")
    found = await searching.all(size=size, programs=["qa", "sum", "unrecorded"])
    expected = [
        f"{program}/{place}"
        for number, place in reversed(list(enumerate(places)))
        for program in (("sum", "qa") if number % 2 else ("qa",))
    ]
    assert found == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, "4321"),
        ({"outcome": "succeeded"}, "41"),
        ({"outcome": "failed"}, "32"),
        ({"outcome": "InputError"}, "3"),
        ({"version": 2}, "4"),
        ({"session": "user-1"}, "21"),
        ({"token": "1.3"}, "4"),
        ({"arm": "candidate"}, "4"),
        ({"since": 2.5}, "43"),
        ({"covers_session": "user-1".__eq__}, "21"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value), "all"),
)
async def test_predictions_are_found_by_what_they_ran_under_and_came_to(
    searching: Searching, client: Redis, wanted: dict[str, Any], expected: str
) -> None:
    arms = [{"rollout": "r", "arm": "candidate", "stage": 1, "target": "session:user-1"}]
    record(client, "1000-0")
    record(client, "2000-0", error="LMAnswerError")
    record(client, "3000-0", version=0, session="", token="", error="InputError")
    record(client, "4000-0", version=2, session="user-2", token="1.3", arms=arms)
    assert await searching.all(**wanted) == [f"qa/{number}000-0" for number in expected]


async def test_conditions_on_scores_are_about_what_each_prediction_has_now(searching: Searching, client: Redis) -> None:
    ids = [record(client, f"{number}000-0") for number in range(1, 5)]
    for task_id, value in zip(ids, (0.1, 0.4, 0.9), strict=False):
        client.set(f"result of {task_id}", "", ex=60)
        await searching.scores.put(task_id, f"result of {task_id}", [], Score("helpful", value), now_s=1.0)
    conditions = [ScoreCondition.parse("helpful<0.5")]
    assert await searching.all(scores=conditions) == [ids[1], ids[0]]
    assert await searching.all(scores=conditions, size=1) == [ids[1], ids[0]]


async def test_few_of_many_are_searched_in_steps(
    searching: Searching, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MAX_SEARCHED", 10)
    rare = record(client, "1000-0", session="rare")
    for number in range(25):
        record(client, f"{2_000 + number}-0")
    ids, token = await searching.page(session="rare")
    assert (ids, bool(token)) == ([], True)
    assert await searching.all(session="rare") == [rare]


async def test_a_page_ends_where_it_has_enough_content(
    searching: Searching, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MAX_PAGE_BYTES", 1_000)
    ids = [record(client, f"{number}000-0", outputs={"a": "x" * 600}) for number in range(1, 6)]
    assert (await searching.page())[0] == [ids[4], ids[3]]
    assert await searching.all() == ids[::-1]


@pytest.mark.parametrize("token", ["x", "1", "1-1", "1-1:", f"{2**64}-0:qa", "-1-0:qa", "1-٣:qa"])
def test_a_token_that_can_not_be_one_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="next_page_token"):
        SearchPosition.parse(token)


async def test_a_prediction_is_found_by_its_id_as_long_as_it_is_recorded(searching: Searching, client: Redis) -> None:
    task_id = record(client, "1000-0")
    assert await searching.recorded.find(task_id) is None
    client.set(KEYS.prediction_recorded(task_id), f"1000-0 {KEYS.program_records('qa')}", ex=60)
    found = await searching.recorded.find(task_id)
    assert found is not None
    assert (found.task_id, found.position, found.inputs) == (task_id, "1000-0", {"q": "1000-0"})
    client.xtrim(KEYS.program_records("qa"), maxlen=0)
    assert await searching.recorded.find(task_id) is None
