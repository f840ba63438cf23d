"""Versions and labels of programs, and judges, through the gateway."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import dspy
import pytest

from snakepit_bridge.client import Fleet
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.programs.lineage import ProgramLineage, store_lineage
from snakepit_bridge.releases.judges import JUDGES_SESSION
from tests.harness.stage import fresh
from tests.integration.gateway_clients import Client, connected, gateway, grants, http, refused
from workers.gateway import Gateway

DENIED = ("PERMISSION_DENIED", "NotGrantedError")
INPUTS = b'{"question": "inputs.question", "answer": "outputs.answer"}'


@pytest.fixture
async def served(redis_url: str) -> AsyncGenerator[Gateway]:
    async with gateway(redis_url, grants=grants()) as running:
        yield running


@pytest.fixture
async def client(served: Gateway) -> AsyncGenerator[Client]:
    async with connected(served.grpc_address, "operator") as connected_client:
        yield connected_client


@pytest.fixture
def fleet(redis_url: str) -> Fleet:
    return Fleet(redis_url)


@pytest.fixture
def program(fleet: Fleet) -> str:
    """A program of two versions, whose first one is ``prod``."""
    name = fresh("qa")
    for output in ("answer", "answer, reason"):
        fleet.register(name, dspy.Predict(f"question -> {output}"))
    fleet.label(name, "prod", 1)
    return name


async def set_label(client: Client, **fields: Any) -> pb.Program:
    return await client.programs.SetLabel(pb.SetProgramLabelRequest(**fields), metadata=client.metadata)


async def versions(client: Client, name: str) -> list[tuple[int, list[str]]]:
    found = await client.programs.ListVersions(pb.ListVersionsRequest(name=name), metadata=client.metadata)
    return [(each.version, list(each.labels)) for each in found.versions]


async def test_versions_are_listed_and_a_label_is_set_and_moved(client: Client, fleet: Fleet, program: str) -> None:
    assert await versions(client, program) == [(2, []), (1, ["prod"])]
    assert [(each.version, each.labels) for each in await fleet.registry.versions(program)] == [(2, ()), (1, ("prod",))]
    assert len({each.digest for each in await fleet.registry.versions(program)}) == 2
    moved = await set_label(client, name=program, label="prod", version=2, author="ann", reason="better")
    assert (moved.version, list(moved.labels)) == (2, ["prod"])
    await set_label(client, name=program, label="old", version=1)
    assert await versions(client, program) == [(2, ["prod"]), (1, ["old"])]


async def test_a_program_that_an_optimizer_found_has_its_lineage(client: Client, fleet: Fleet, program: str) -> None:
    found = ProgramLineage(f"{program}:1", "MIPROv2", "run-1", "exact", "digest", score=0.9)
    await store_lineage(fleet.connection, fleet.registry.keys, program, 2, found)
    for reference, lineage in ((f"{program}:2", found), (f"{program}:1", None)):
        request = pb.GetProgramRequest(reference=reference)
        text = (await client.programs.Get(request, metadata=client.metadata)).lineage_json
        assert (ProgramLineage.decode(text) if text else None) == lineage


async def test_moving_a_label_ends_its_rollout_with_the_author_and_the_reason(client: Client, program: str) -> None:
    target = f"{program}@prod"
    start = pb.StartRolloutRequest(target=target, version=2)
    await client.rollouts.Start(start, metadata=client.metadata)
    await set_label(client, name=program, label="prod", version=2, author="ann", reason="good enough")
    watching = client.rollouts.Watch(pb.WatchRolloutRequest(target=target), metadata=client.metadata)
    ended = [event async for event in _take(watching, 2)][-1]
    watching.cancel()
    assert (ended.author, ended.reason) == ("operator (says: ann)", "good enough")


async def _take(stream: Any, count: int) -> AsyncGenerator[Any]:
    for _ in range(count):
        yield await stream.read()


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"version": 3}, "ProgramNotFoundError"),
        ({"version": 0}, "ProgramNotFoundError"),
        ({"name": "nobody", "version": 1}, "ProgramNotFoundError"),
        ({"name": "a b", "version": 1}, "ProgramNotFoundError"),
        ({"label": "", "version": 1}, "ProgramSpecError"),
        ({"label": "a b", "version": 1}, "ProgramSpecError"),
    ],
)
async def test_what_can_not_be_labelled_is_refused(
    client: Client, program: str, fields: dict[str, Any], kind: str
) -> None:
    request = {"name": program, "label": "new", **fields}
    assert (await refused(set_label(client, **request)))[1] == kind
    assert await versions(client, program) == [(2, []), (1, ["prod"])]


async def test_versions_of_what_is_no_program_are_not_found(client: Client, program: str) -> None:
    for name in ("nobody", f"{program}@prod", f"{program}:1", "a b"):
        assert (await refused(versions(client, name)))[:2] == ("NOT_FOUND", "ProgramNotFoundError")


async def test_a_label_takes_the_release_scope_and_a_token_for_all(client: Client, program: str) -> None:
    for token in ("publisher", "releaser"):
        found = await refused(set_label(client.with_token(token), name=program, label="prod", version=2))
        assert found[:2] == DENIED
    assert (await versions(client.with_token("reader"), program))[-1] == (1, ["prod"])


async def add_judge(client: Client, judged: str, program: str, **fields: Any) -> pb.Judge:
    given: dict[str, Any] = {"judged": judged, "name": "helpful", "program": program, "inputs_json": INPUTS, **fields}
    return await client.judges.Add(pb.AddJudgeRequest(**given), metadata=client.metadata)


async def judges(client: Client) -> pb.ListJudgesResponse:
    return await client.judges.List(pb.ListJudgesRequest(), metadata=client.metadata)


@pytest.fixture
def judge(fleet: Fleet) -> str:
    return fleet.register(fresh("judge"), dspy.Predict("question, answer -> score: float, reason")).name


async def test_a_judge_is_added_listed_and_removed(client: Client, fleet: Fleet, program: str, judge: str) -> None:
    added = await add_judge(client, program, judge, share=0.25, author="ann", comment="reason")
    assert (added.judged, added.output, added.share, added.usd_per_hour, added.concurrency) == (
        program, "score", 0.25, 1.0, 8,
    )  # fmt: skip
    found = await judges(client)
    assert [(report.judge, report.judged, report.cost_usd) for report in found.judges] == [(added, 0, "0")]
    [newest] = await fleet.store.history(JUDGES_SESSION, 1)
    assert newest.author == "operator (says: ann)"
    remove = pb.RemoveJudgeRequest(judged=program, name="helpful", author="ann")
    await client.judges.Remove(remove, metadata=client.metadata)
    assert not (await judges(client)).judges
    found_again = await refused(client.judges.Remove(remove, metadata=client.metadata))
    assert found_again[:2] == ("INVALID_ARGUMENT", "JudgeError")


async def test_what_is_no_judge_is_listed_by_name_beside_those_that_are(
    client: Client, fleet: Fleet, program: str, judge: str
) -> None:
    await add_judge(client, program, judge)
    await fleet.session(JUDGES_SESSION).set_variables({"dspex.judge.qa.broken": "{", "dspex.judge.odd": "{}"})
    found = await judges(client)
    assert [report.judge.judged for report in found.judges] == [program]
    assert {each.judge: each.problem[:20] for each in found.invalid} == {
        "qa.broken": "its variable isn't J", "dspex.judge.odd": "its variable is name",
    }  # fmt: skip
    listing = await fleet.judges.aio.list()
    assert ([each.judge.judged for each in listing.judges], len(listing.invalid)) == ([program], 2)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"name": "no name"}, "JudgeError"),
        ({"inputs_json": b"{"}, "JudgeError"),
        ({"inputs_json": b'{"question": 1}'}, "JudgeError"),
        ({"inputs_json": b'{"question": "question"}'}, "JudgeError"),
        ({"share": 0.0}, "JudgeError"),
        ({"share": float("nan")}, "JudgeError"),
        ({"usd_per_hour": float("inf")}, "JudgeError"),
        ({"concurrency": 0}, "JudgeError"),
        ({"output": "grade"}, "JudgeError"),
        ({"program": "nobody"}, "ProgramNotFoundError"),
        ({"judged": "nobody"}, "ProgramNotFoundError"),
        ({"judged": "a b"}, "ProgramSpecError"),
    ],
)
async def test_what_can_not_judge_is_refused(
    client: Client, program: str, judge: str, fields: dict[str, Any], kind: str
) -> None:
    request = {"judged": program, "program": judge, **fields}
    assert (await refused(add_judge(client, **request)))[1] == kind
    assert not (await judges(client)).judges


async def test_judges_take_the_control_scope_and_their_session(client: Client, program: str, judge: str) -> None:
    everything = client.with_token("all")
    status, _, fields = await refused(add_judge(everything, program, judge))
    assert (status, fields[1]) == ("PERMISSION_DENIED", "control")
    assert await judges(everything) == pb.ListJudgesResponse()
    assert (await refused(judges(client.with_token("reader"))))[2][1:] == ["read", JUDGES_SESSION]


async def test_the_same_over_http(served: Gateway, program: str, judge: str) -> None:
    async with http(served.http_address, "operator") as over_http:
        labelled = await over_http.post(f"/v1/programs/{program}/labels", json={"label": "new", "version": 2})
        assert (labelled.status_code, labelled.json()["labels"]) == (200, ["new"])
        found = (await over_http.get(f"/v1/programs/{program}/versions")).json()["versions"]
        assert [each["version"] for each in found] == [2, 1]
        inputs = {"question": "inputs.question", "answer": "outputs.answer"}
        body = {"judged": program, "name": "helpful", "program": judge, "inputs": inputs}
        assert (await over_http.post("/v1/judges", json=body)).json()["inputs"] == inputs
        listed = (await over_http.get("/v1/judges")).json()
        assert [each["judge"]["name"] for each in listed["judges"]] == ["helpful"]
        assert (await over_http.post(f"/v1/judges/{program}/helpful/remove")).json() == {}
        assert (await over_http.post("/v1/judges", json={**body, "name": "1"})).status_code == 400
