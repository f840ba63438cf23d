"""``dspex-fleet dead``: what an operator types and reads."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from redis import Redis

from snakepit_bridge.cli import main
from tests.harness.broker import QUEUE, channel, put, take

Run = Callable[..., str]


@pytest.fixture
def run(redis_url: str, capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["--redis-url", redis_url, "dead", *arguments])
        out, err = capsys.readouterr()
        assert (ended.value.code or 0) == code, err
        return out if code == 0 else err

    return command


@pytest.fixture
def ids(redis_url: str) -> list[str]:
    """Three messages that a worker rejected."""
    with channel(redis_url) as ours:
        for n in range(3):
            put(ours, n, headers={"task": "shop.unknown", "id": f"task-{n}"})
        messages = [take(ours) for _ in range(3)]
        for message in messages:
            message.reject(requeue=False)
    return [message.delivery_tag for message in messages]


def test_an_empty_list_says_so(run: Run) -> None:
    assert "0 dead" in run("list")
    assert json.loads(run("list", "--json")) == {"count": 0, "messages": []}


def test_the_list_and_one_of_it(run: Run, ids: list[str]) -> None:
    table = run("list")
    assert all(id in table for id in ids)
    assert "shop.unknown" in table
    assert "3 dead" in table
    assert "3 dead, 1 shown" in run("list", "--limit", "1")
    listed = json.loads(run("list", "--json"))
    assert {message["task_id"] for message in listed["messages"]} == {"task-0", "task-1", "task-2"}
    assert "message" not in listed["messages"][0]
    shown = json.loads(run("show", ids[1], "--json"))
    assert (shown["reason"], shown["queue"], shown["task_id"]) == ("rejected", QUEUE, "task-1")
    assert json.loads(shown["message"])["headers"]["id"] == "task-1"
    assert "shop.unknown" in run("show", ids[1])


def test_messages_are_retried_and_dropped_by_name_or_all(run: Run, ids: list[str], redis_url: str) -> None:
    assert run("retry", ids[0]) == f"{ids[0]} is back in queue {QUEUE}\n"
    assert run("drop", ids[1]) == f"{ids[1]} is dropped\n"
    assert run("retry", "--all") == f"{ids[2]} is back in queue {QUEUE}\n"
    with Redis.from_url(redis_url) as client:
        assert client.llen(QUEUE) == 2
    assert "0 dead" in run("list")


@pytest.mark.parametrize("verb", ["retry", "drop"])
def test_nothing_and_everything_have_to_be_said(verb: str, run: Run, ids: list[str]) -> None:
    assert "or pass --all" in run(verb, code=1)
    assert "or pass --all" in run(verb, ids[0], "--all", code=1)
    assert "No dead message nothing." in run(verb, "nothing", code=1)


def test_the_doctor_warns(redis_url: str, ids: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--redis-url", redis_url, "doctor", "--json"])
    found = {check["what"]: check for check in json.loads(capsys.readouterr().out)}
    dead = found["dead messages"]
    assert (dead["level"], dead["found"], dead["fix"]) == (
        "warn", "3 in the dead-letter list", "inspect them: dspex-fleet dead list",
    )  # fmt: skip
