"""Scores of real predictions, from the client, the command line and the gateway: one store, the same answers."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import dspy
import grpc.aio
import pytest

from snakepit_bridge.cli import main
from snakepit_bridge.client import Handle
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import PredictionNotScorableError
from tests.harness.stage import Stage, fresh, stage
from tests.integration.gateway_clients import Client, connected, gateway, grants, http, refusal


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), DSPEX_PAYLOAD_BYTES="1000") as playing:
        playing.fleet.register("plain", dspy.Predict("question -> answer"))
        yield playing


def ask(play: Stage, question: str = "", **options: Any) -> Handle:
    return play.fleet.submit("plain", {"question": question or fresh("q")}, **options)


def values(play: Stage, task_id: str) -> dict[str, Any]:
    return {score.name: score.value for score in play.fleet.scores(task_id)}


def test_a_finished_prediction_is_scored_by_whoever_has_its_id(play: Stage) -> None:
    handle = ask(play)
    handle.get()
    handle.score("helpful", 0.5)
    play.fleet.score(handle.id, "tone", "friendly")
    assert values(play, handle.id) == {"helpful": 0.5, "tone": "friendly"}


def test_a_result_beside_its_message_is_scored(play: Stage) -> None:
    handle = ask(play, "x" * 5_000)
    handle.get()
    handle.score("helpful", True)
    assert values(play, handle.id) == {"helpful": True}


def test_a_prediction_that_goes_on_is_not_scored_and_a_cancelled_one_is(play: Stage) -> None:
    with play.held():
        waiting = ask(play)
        with pytest.raises(PredictionNotScorableError):
            waiting.score("helpful", 1.0)
        waiting.cancel()
    waiting.score("helpful", 0.0)
    assert values(play, waiting.id) == {"helpful": 0.0}


def run_command(play: Stage, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[Any, str, str]:
    """Return the exit code and the output of a command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["--redis-url", play.url, "score", *arguments])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_the_command_scores_and_shows(play: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    handle = ask(play)
    handle.get()
    assert run_command(play, capsys, handle.id) == (0, f"Prediction {handle.id} has no scores.\n", "")
    for name, text in (("helpful", "0.75"), ("correct", "true"), ("tone", "friendly")):
        code, _, _ = run_command(play, capsys, handle.id, name, text, "--comment", "so it is", "--scorer", "jo")
        assert code == 0
    assert values(play, handle.id) == {"helpful": 0.75, "correct": True, "tone": "friendly"}
    _, table, _ = run_command(play, capsys, handle.id)
    [line] = [line for line in table.splitlines() if "friendly" in line]
    assert line.split()[:3] == ["tone", "friendly", "jo"]
    assert line.rstrip().endswith("so it is")
    _, printed, _ = run_command(play, capsys, handle.id, "--json")
    found = json.loads(printed)
    assert [(score["name"], score["value"], score["kind"], score["scorer"]) for score in found] == [
        ("correct", True, "boolean", "jo"), ("helpful", 0.75, "number", "jo"), ("tone", "friendly", "label", "jo"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (("{task}", "helpful", "1.5"), 1, "The score's value is refused: a number is from 0 to 1; got 1.5."),
        (("{task}", "help ful", "1"), 1, "The score's name is refused"),
        (("{task}", "helpful"), 2, "give a value for 'helpful'"),
        (("nobody", "helpful", "1"), 1, "Prediction nobody can't be scored: it has no result."),
    ],
)
def test_the_command_refuses_what_is_no_score(
    play: Stage, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, problem: str
) -> None:
    handle = ask(play)
    handle.get()
    ended, _, message = run_command(play, capsys, *(each.format(task=handle.id) for each in arguments))
    assert (ended, problem in " ".join(message.replace("│", " ").split())) == (code, True), message
    assert values(play, handle.id) == {}


async def scored(client: Client, task_id: str, value: Any, name: str = "helpful", **options: Any) -> pb.PredictionScore:
    request = pb.ScoreRequest(id=task_id, name=name, value_json=json.dumps(value).encode(), **options)
    return await client.scores.Score(request, metadata=client.metadata)


async def refused(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return refusal(error.value)[:2]


async def test_the_gateway_scores_and_lists(play: Stage) -> None:
    session = fresh("user")
    async with gateway(play.url, grants=grants()) as served, connected(served.grpc_address, "predictor") as client:
        await play.fleet.session(session).set_variable("t", 0.5)
        task_id = await client.submit("plain", session, {"question": fresh("q")})
        await client.predictions.Await(pb.AwaitRequest(id=task_id, timeout_s=30), metadata=client.metadata)
        stored = await scored(client, task_id, 0.25, comment="so it is")
        assert (stored.name, stored.value_json, stored.comment, stored.scorer) == (
            "helpful", b"0.25", "so it is", "application",
        )  # fmt: skip
        await scored(client, task_id, 0.75, comment="on second thoughts")
        await scored(client, task_id, "friendly", "tone", scorer="jo")
        listed = await client.scores.List(pb.ListScoresRequest(id=task_id), metadata=client.metadata)
        assert [(score.name, json.loads(score.value_json), score.scorer) for score in listed.scores] == [
            ("helpful", 0.75, "application"), ("tone", "friendly", "jo"),
        ]  # fmt: skip
        assert values(play, task_id) == {"helpful": 0.75, "tone": "friendly"}
        for name, value in (("helpful", 2), ("helpful", None), ("no name", 1), ("", 1)):
            assert await refused(scored(client, task_id, value, name)) == ("INVALID_ARGUMENT", "ScoreError")
        judging = scored(client, task_id, 1, scorer="judge")
        assert await refused(judging) == ("INVALID_ARGUMENT", "ScoreError"), "nobody else scores in a judge's name"
        empty = pb.ScoreRequest(id=task_id, name="helpful")
        assert await refused(client.scores.Score(empty, metadata=client.metadata)) == ("INVALID_ARGUMENT", "ScoreError")


async def test_the_gateway_scores_for_those_who_may_read_the_prediction(play: Stage) -> None:
    async with gateway(play.url, grants=grants()) as served, connected(served.grpc_address, "predictor") as client:
        task_id = await client.submit("plain", "user-1", {"question": fresh("q")})
        await client.predictions.Await(pb.AwaitRequest(id=task_id, timeout_s=30), metadata=client.metadata)
        other, reader = client.with_token("other"), client.with_token("reader")
        assert await refused(scored(other, task_id, 1)) == ("NOT_FOUND", "PredictionNotFoundError")
        assert await refused(scored(client, "nobody", 1)) == ("NOT_FOUND", "PredictionNotFoundError")
        assert await refused(scored(reader, task_id, 1)) == ("PERMISSION_DENIED", "NotGrantedError")
        listing = other.scores.List(pb.ListScoresRequest(id=task_id), metadata=other.metadata)
        assert await refused(listing) == ("NOT_FOUND", "PredictionNotFoundError")
        with play.held():
            waiting = await client.submit("plain", "user-1", {"question": fresh("q")})
            assert await refused(scored(client, waiting, 1)) == ("FAILED_PRECONDITION", "PredictionNotScorableError")
    assert values(play, task_id) == {}


async def test_the_same_over_http(play: Stage) -> None:
    async with gateway(play.url, grants=grants()) as served, http(served.http_address, "predictor") as client:
        submit = {"program": "plain", "session": "user-1", "inputs": {"question": fresh("q")}}
        task_id = (await client.post("/v1/predictions", json=submit)).json()["id"]
        await client.get(f"/v1/predictions/{task_id}/await", params={"timeout_s": 30})
        path = f"/v1/predictions/{task_id}/scores"
        stored = (await client.post(path, json={"name": "correct", "value": True, "comment": "yes"})).json()
        assert (stored["value"], stored["scorer"], stored["comment"]) == (True, "application", "yes")
        assert (await client.get(path)).json() == {"scores": [stored]}
        for body in ({"name": "correct", "value": 1.01}, {"name": "correct"}, {"value": 1}):
            assert (await client.post(path, json=body)).status_code == 400
        assert (await client.get("/v1/predictions/nobody/scores")).status_code == 404
    assert values(play, task_id) == {"correct": True}
