"""Datasets, recorders, evaluations, optimizations and their jobs through the gateway, with real workers."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator
from typing import Any

import dspy
import pytest

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from tests.harness.stage import Stage, fresh, stage
from tests.integration.gateway_clients import Client, connected, gateway, grants, http, refused
from workers.gateway import Gateway

DENIED = ("PERMISSION_DENIED", "NotGrantedError")
METRIC = "tests.harness.metrics:exact"


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("learning"), DSPEX_ALLOWED_PACKAGES="tests") as playing:
        playing.fleet.register("qa", dspy.Predict("question -> answer"))
        playing.start(pool="prefork", concurrency=1, queues=("predictions.code",), name=fresh("code"))
        yield playing


@pytest.fixture
async def served(play: Stage) -> AsyncGenerator[Gateway]:
    async with gateway(play.url, grants=grants()) as running:
        yield running


@pytest.fixture
async def client(served: Gateway) -> AsyncGenerator[Client]:
    async with connected(served.grpc_address, "operator") as connected_client:
        yield connected_client


async def add(client: Client, name: str, count: int = 4) -> pb.Dataset:
    """Store questions, of which the echoing LM answers all but the first as expected."""
    rows = [{"question": f"{name}-{n}.", "answer": f"answer of {name}-{n}." if n else "42"} for n in range(count)]
    request = pb.AddDatasetRequest(name=name, inputs=["question"], examples_json=json.dumps(rows).encode())
    return await client.datasets.Add(request, metadata=client.metadata)


async def test_datasets_are_added_listed_read_in_pages_compared_and_removed(client: Client) -> None:
    name, data, how = fresh("golden"), client.datasets, {"metadata": client.metadata}
    added = await add(client, name)
    assert (added.version, added.inputs, added.examples, added.author) == (1, ["question"], 4, "operator")
    assert (await add(client, name)).version == 1
    assert (await add(client, name, 5)).version == 2
    listed = await data.List(pb.ListDatasetsRequest(prefix=name, page_size=1), **how)
    assert [(each.name, each.version) for each in listed.datasets] == [(name, 2)]
    versions = await data.ListVersions(pb.ListDatasetVersionsRequest(name=name), **how)
    assert [each.version for each in versions.versions] == [1, 2]
    questions, token = list[str](), ""
    while token or not questions:
        request = pb.ListDatasetExamplesRequest(reference=f"{name}:1", page_size=3, page_token=token)
        page = await data.ListExamples(request, **how)
        questions += [example["question"] for example in json.loads(page.examples_json)]
        token = page.next_page_token
    assert questions == [f"{name}-{n}." for n in range(4)]
    diff = await data.Diff(pb.DiffDatasetsRequest(before=f"{name}:1", after=name), **how)
    assert (diff.unchanged, len(json.loads(diff.diff_json)["added"])) == (4, 1)
    removed = await data.Remove(pb.DatasetRequest(reference=f"{name}:1"), **how)
    assert [each.version for each in removed.versions] == [1]
    assert (await data.Get(pb.DatasetRequest(reference=name), **how)).version == 2
    missing = data.Get(pb.DatasetRequest(reference=f"{name}:1"), **how)
    assert (await refused(missing))[:2] == ("NOT_FOUND", "DatasetNotFoundError")
    assert [each.name for each in (await data.List(pb.ListDatasetsRequest(page_token=name), **how)).datasets] == []


async def test_what_can_not_be_a_dataset_or_a_page_is_refused_by_name(client: Client) -> None:
    data, how = client.datasets, {"metadata": client.metadata}
    name = (await add(client, fresh("golden"))).name
    for call, expected in (
        (data.Add(pb.AddDatasetRequest(name="x", inputs=["q"], examples_json=b"{}"), **how), "DatasetError"),
        (data.Add(pb.AddDatasetRequest(name="x", inputs=["q"], examples_json=b"["), **how), "DatasetError"),
        (data.Add(pb.AddDatasetRequest(name="x", inputs=["q"], examples_json=b'[{"r": 1}]'), **how), "DatasetError"),
        (data.ListExamples(pb.ListDatasetExamplesRequest(reference=name, page_token="x"), **how), "MalformedError"),
        (data.AddFromPredictions(pb.AddFromPredictionsRequest(program="qa", name="x"), **how), "DatasetError"),
        (
            client.recorders.Set(pb.SetRecorderRequest(program="qa", keep=["answer"]), **how),
            "RecorderError",
        ),
    ):
        assert (await refused(call))[:2] == ("INVALID_ARGUMENT", expected)


async def test_a_recorder_keeps_predictions_of_which_a_dataset_is_made(client: Client, play: Stage) -> None:
    how, program, name = {"metadata": client.metadata}, fresh("qa"), fresh("kept")
    play.fleet.register(program, dspy.Predict("question -> answer"))
    recorder = await client.recorders.Set(pb.SetRecorderRequest(program=program, max_records=5, errors=False), **how)
    assert (recorder.share, recorder.max_records, recorder.errors) == (1.0, 5, False)

    async def list_own() -> pb.RecorderReport:
        found = await client.recorders.List(pb.ListRecordersRequest(), **how)
        return next(each for each in found.recorders if each.recorder.program == program)

    while not (await list_own()).records:  # a worker knows a recorder within seconds
        await play.fleet.submit(program, {"question": fresh("q")})
    assert (await list_own()).oldest.seconds > 0
    request = pb.AddFromPredictionsRequest(program=program, name=name, since_s=600, limit=1)
    assert (await client.datasets.AddFromPredictions(request, **how)).examples == 1
    await client.recorders.Remove(pb.RemoveRecorderRequest(program=program, erase=True), **how)
    found = await client.recorders.List(pb.ListRecordersRequest(), **how)
    assert program not in {each.recorder.program for each in found.recorders}


async def test_an_evaluation_is_started_once_watched_read_and_compared(client: Client, play: Stage) -> None:
    how, name = {"metadata": client.metadata}, fresh("golden")
    await add(client, name)
    play.fleet.register("qa", dspy.ChainOfThought("question -> answer"))
    start = pb.StartEvaluationRequest(
        program="qa", dataset=name, metric=METRIC, arms=["qa:1", "qa:2"], author="ann", request_id=fresh("id")
    )
    job = await client.evaluations.Start(start, **how)
    assert (job.kind, job.author) == (pb.JOB_KIND_EVALUATION, "operator (says: ann)")
    assert job.state in (pb.JOB_STATE_QUEUED, pb.JOB_STATE_RUNNING)
    assert (await client.evaluations.Start(start, **how)).id == job.id
    states = [state async for state in client.jobs.Watch(pb.JobRequest(id=job.id), **how)]
    assert states[-1].state == pb.JOB_STATE_SUCCEEDED
    assert json.loads(states[-1].progress_json)["ended"] == 8
    ids = [arm["id"] for arm in json.loads(states[-1].result_json)["arms"].values()]
    found = await client.evaluations.Get(pb.EvaluationRequest(id=ids[0][:8]), **how)
    assert (found.id, found.program, found.version, found.dataset, found.score) == (ids[0], "qa", 1, name, 75.0)
    assert (found.usage.calls, json.loads(found.record_json)["mean"]) == (4, 0.75)
    listed = await client.evaluations.List(pb.ListEvaluationsRequest(limit=2), **how)
    assert {each.id for each in listed.evaluations} == set(ids)
    seen, token = list[str](), ""
    for _ in ids:
        page = await client.evaluations.List(pb.ListEvaluationsRequest(limit=1, program="qa", page_token=token), **how)
        seen, token = [*seen, *(each.id for each in page.evaluations)], page.next_page_token
    assert seen == [each.id for each in listed.evaluations]
    examples = await client.evaluations.ListExamples(pb.ListEvaluationExamplesRequest(id=ids[0], page_size=1), **how)
    assert (json.loads(examples.examples_json)[0]["score"], examples.next_page_token) == (False, "1")
    compared = await client.evaluations.Compare(pb.CompareEvaluationsRequest(baseline=ids[0], candidate=ids[1]), **how)
    assert (compared.difference, compared.verdict, compared.paired) == (0.0, "no clear difference", 4)
    brief = (await client.jobs.List(pb.ListJobsRequest(kind=pb.JOB_KIND_EVALUATION, limit=1), **how)).jobs
    assert [(each.id, each.result_json) for each in brief] == [(job.id, b"")]


async def test_a_program_without_inputs_is_evaluated_over_http(served: Gateway, play: Stage) -> None:
    name = fresh("joke")
    play.fleet.register(name, dspy.Predict("-> answer"))
    async with http(served.http_address, "all") as web:
        rows = [{"answer": "42"}, {"answer": "43"}]
        added = (await web.post("/v1/datasets", json={"name": name, "inputs": [], "examples": rows})).json()
        assert (added["version"], added["inputs"], added["examples"]) == (1, [], 2)
        started = (await web.post("/v1/evaluations", json={"program": name, "dataset": name, "metric": METRIC})).json()
        async with web.stream("GET", f"/v1/jobs/{started['id']}/watch") as events:
            states = [json.loads(line[6:]) async for line in events.aiter_lines() if line.startswith("data: ")]
    assert (states[-1]["state"], states[-1]["progress"]["errors"]) == ("succeeded", 0)


async def test_an_optimization_is_started_over_http_and_its_events_are_streamed(served: Gateway, play: Stage) -> None:
    name = fresh("train")
    async with http(served.http_address, "all") as web:
        rows = [{"question": f"{name}-{n}.", "answer": f"answer of {name}-{n}."} for n in range(3)]
        dataset = {"name": name, "inputs": ["question"], "examples": rows}
        assert (await web.post("/v1/datasets", json=dataset)).json()["version"] == 1
        shown = (await web.get(f"/v1/datasets/{name}/examples")).json()
        assert (shown["examples"], shown["dataset"]["digest"] != "") == (rows, True)
        order = {
            "program": "qa:1", "trainset": name, "metric": METRIC, "optimizer": "BootstrapFewShot", "label": "",
            "options": {"max_bootstrapped_demos": 1}, "max_predictions": 50,
        }  # fmt: skip
        started = (await web.post("/v1/optimizations", json=order)).json()
        async with web.stream("GET", f"/v1/jobs/{started['id']}/watch") as events:
            states = [json.loads(line[6:]) async for line in events.aiter_lines() if line.startswith("data: ")]
        result: dict[str, Any] = states[-1]["result"]
        assert (states[-1]["state"], result["optimizer"], result["predictions"]) == ("succeeded", "BootstrapFewShot", 1)
        assert result["version"] == play.fleet.versions("qa")[0].version
        refusal = (await web.post("/v1/optimizations", json={**order, "optimizer": "GRPO"})).json()["error"]
        assert refusal["kind"] == "OptimizationError"
        refusal = (await web.post("/v1/optimizations", json={**order, "max_usd": 0})).json()["error"]
        assert "max_usd is above 0" in refusal["message"]


async def test_a_job_is_cancelled_and_one_that_is_unknown_is_not_found(client: Client, play: Stage) -> None:
    how, name = {"metadata": client.metadata}, fresh("golden")
    await add(client, name)
    play.lm.hang(30, containing=name)
    job = await client.evaluations.Start(pb.StartEvaluationRequest(program="qa:1", dataset=name, metric=METRIC), **how)
    assert (await client.jobs.Cancel(pb.JobRequest(id=job.id), **how)).state == pb.JOB_STATE_CANCELLED
    assert (await client.jobs.Get(pb.JobRequest(id=job.id), **how)).ended_at.seconds > 0
    play.lm.faults.clear()
    assert (await refused(client.jobs.Get(pb.JobRequest(id="0" * 32), **how)))[:2] == ("NOT_FOUND", "JobNotFoundError")
    start = pb.StartEvaluationRequest(program="qa", dataset=name, metric=METRIC, metric_options_json=b'{"odd": 1}')
    assert (await refused(client.evaluations.Start(start, **how)))[:2] == ("INVALID_ARGUMENT", "MetricError")
    failing = pb.StartEvaluationRequest(program="qa:1", dataset=name, metric="tests.harness.metrics:nothing")
    job = await client.evaluations.Start(failing, **how)
    states = [state async for state in client.jobs.Watch(pb.JobRequest(id=job.id), **how)]
    assert (states[-1].state, states[-1].error.kind) == (pb.JOB_STATE_FAILED, "MetricError")


async def test_a_token_for_some_sessions_or_without_the_scope_is_refused(client: Client) -> None:
    limited, reading = client.with_token("administrator of some"), client.with_token("reader")
    start = pb.StartEvaluationRequest(program="qa", dataset="golden", metric=METRIC)
    order = pb.StartOptimizationRequest(program="qa", trainset="golden", metric=METRIC, optimizer="COPRO")
    for call, by in (
        (client.datasets.List(pb.ListDatasetsRequest(), metadata=reading.metadata), reading),
        (client.evaluations.List(pb.ListEvaluationsRequest(), metadata=reading.metadata), reading),
        (client.jobs.Get(pb.JobRequest(id="x"), metadata=reading.metadata), reading),
        (client.recorders.List(pb.ListRecordersRequest(), metadata=reading.metadata), reading),
        (client.evaluations.Start(start, metadata=limited.metadata), limited),
        (client.optimizations.Start(order, metadata=limited.metadata), limited),
        (client.optimizations.Start(order, metadata=client.metadata), client),
    ):
        assert by is not None
        assert (await refused(call))[:2] == DENIED
