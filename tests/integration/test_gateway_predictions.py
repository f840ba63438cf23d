"""Predictions and programs through the gateway, on a real worker: the LM's requests, and who may see results."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Generator
from typing import Any

import dspy
import grpc.aio
import pytest
from redis import Redis

from snakepit_bridge.client.results import TaskResult
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import StoreUnavailableError
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S
from tests.integration.gateway_clients import Client, connected, first, gateway, grants, http, refusal, refused
from workers.gateway import Gateway
from workers.gateway.api import predictions

SPEC = {"module": "Predict", "signature": "question -> answer", "bindings": {"temperature": "temp"}}


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), DSPEX_REQUIREMENT_WAIT_S="2") as play:
        play.fleet.register("qa", dspy.Predict("question -> answer"), bindings={"temperature": "temp"})
        play.fleet.register("plain", dspy.Predict("question -> answer"))
        play.fleet.session("user-1").blocking.set_variable("temp", 0.5)
        yield play


@pytest.fixture
async def served(play: Stage) -> AsyncGenerator[Gateway]:
    async with gateway(play.url, grants=grants()) as running:
        yield running


@pytest.fixture
async def client(served: Gateway) -> AsyncGenerator[Client]:
    async with connected(served.grpc_address) as connected_client:
        yield connected_client


async def ended(client: Client, task_id: str) -> pb.Prediction:
    return await client.predictions.Await(pb.AwaitRequest(id=task_id, timeout_s=30), metadata=client.metadata)


def await_request(task_id: str) -> pb.PredictionRequest:
    return pb.PredictionRequest(id=task_id)


async def test_a_value_published_through_the_gateway_is_in_the_next_predictions_lm_request(
    play: Stage, client: Client
) -> None:
    session = fresh("user")
    for temperature in (0.25, 0.75, 0.5):
        token = await client.publish(session, temp=temperature)
        question = fresh("q")
        task_id = await client.submit("qa", session, {"question": question}, at_least=token)
        prediction = await ended(client, task_id)
        assert prediction.state == pb.PREDICTION_STATE_SUCCEEDED, prediction
        assert json.loads(prediction.outputs_json) == {"answer": f"answer of {question}"}
        assert (prediction.provenance.token, prediction.provenance.program) == (token, "qa")
        assert [sent.body["temperature"] for sent in play.requests_with(question)] == [temperature]
        assert prediction.provenance.prompt_tokens > 0


async def test_the_same_over_http_alone(play: Stage, served: Gateway) -> None:
    session, question = fresh("user"), fresh("q")
    async with http(served.http_address) as client:
        body = {"changes": [{"name": "temp", "value": 0.125}]}
        token = (await client.post(f"/v1/sessions/{session}/publish", json=body)).json()["token"]
        submit = {"program": "qa", "session": session, "inputs": {"question": question}, "at_least": token}
        task_id = (await client.post("/v1/predictions", json=submit)).json()["id"]
        found = (await client.get(f"/v1/predictions/{task_id}/await", params={"timeout_s": 30})).json()
        assert (found["state"], found["outputs"]) == ("succeeded", {"answer": f"answer of {question}"})
        assert found["provenance"]["record"]["variables"] == {"temp": 0.125}
        async with client.stream("GET", f"/v1/predictions/{task_id}/stream") as stream:
            lines = [line async for line in stream.aiter_lines() if line.startswith("data: ")]
    assert json.loads(lines[-1].removeprefix("data: "))["ended"] == found
    assert [sent.body["temperature"] for sent in play.requests_with(question)] == [0.125]


async def test_an_empty_session_means_the_default_session(client: Client) -> None:
    prediction = await ended(client, await client.submit("plain", "", {"question": fresh("q")}))
    assert prediction.provenance.session == "default"


async def test_a_stream_reports_the_states_and_ends_with_the_result(play: Stage, client: Client) -> None:
    with play.held():
        task_id = await client.submit("plain", "user-1", {"question": fresh("q")})
        stream = client.predictions.Stream(pb.StreamRequest(id=task_id), metadata=client.metadata)
        (waiting,) = await first(stream, 1)
        assert waiting.state == pb.PREDICTION_STATE_QUEUED
    (last,) = await first(stream, 1)
    assert last.ended.state == pb.PREDICTION_STATE_SUCCEEDED
    assert last.ended == await client.predictions.Get(await_request(task_id), metadata=client.metadata)


@pytest.mark.parametrize("patience_s", [PATIENCE_S, 0.0], ids=["passes", "lasts"])
async def test_a_stream_goes_on_behind_a_stall_of_redis_and_ends_by_one_that_lasts(
    play: Stage, monkeypatch: pytest.MonkeyPatch, patience_s: float
) -> None:
    monkeypatch.setattr(predictions, "_POLL_S", 0.05)
    monkeypatch.setattr(predictions, "MAX_WAIT_S", patience_s)
    play.lm.pace(8, 0.1)
    question = f"{fresh('q')} {' '.join(map(str, range(60)))}"
    async with gateway(play.url, redis_timeout_s=1.0) as served, connected(served.grpc_address, None) as client:
        task_id = await client.submit("plain", "user-1", {"question": question}, stream=True)
        stream = client.predictions.Stream(pb.StreamRequest(id=task_id), metadata=client.metadata)
        texts: list[str] = []
        while not texts:
            texts += [event.piece.text for event in await first(stream, 1) if event.HasField("piece")]
        play.lm.pace(None)
        with Redis.from_url(play.url) as server:
            server.client_pause(2_500)
        if not patience_s:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await first(stream, len(question))
            assert refusal(error.value)[:2] == ("UNAVAILABLE", "StoreUnavailableError")
            return
        rest = [event async for event in stream]
    texts += [event.piece.text for event in rest if event.HasField("piece")]
    assert "".join(texts) == f"answer of {question}"
    assert rest[-1].ended.state == pb.PREDICTION_STATE_SUCCEEDED


async def test_await_outlasts_a_stall_of_redis_as_it_reads_the_state(
    play: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, stalls = vars(predictions.Predictions)["_outcome"], [StoreUnavailableError("redis://x", "no reply")]
    was_pending = asyncio.Event()

    async def outcome(service: predictions.Predictions, task_id: str) -> TaskResult:
        found: TaskResult = await read(service, task_id)
        if not found.ready:
            was_pending.set()
        elif stalls:
            raise stalls.pop()
        return found

    monkeypatch.setattr(predictions.Predictions, "_outcome", outcome)
    async with gateway(play.url) as served, connected(served.grpc_address, None) as client:
        with play.held():
            task_id = await client.submit("plain", "user-1", {"question": fresh("q")})
            awaiting = asyncio.ensure_future(ended(client, task_id))
            await was_pending.wait()
        assert (await awaiting).state == pb.PREDICTION_STATE_SUCCEEDED
    assert not stalls


async def test_await_ends_with_its_timeout_though_redis_stalls(
    play: Stage, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0

    async def outcome(*_: Any) -> TaskResult:
        nonlocal reads
        reads += 1
        if reads > 1:
            raise StoreUnavailableError("redis://x", "no reply")
        return TaskResult("PENDING")

    with play.held():
        task_id = await client.submit("plain", "user-1", {"question": fresh("q")})
        monkeypatch.setattr(predictions.Predictions, "_outcome", outcome)
        request = pb.AwaitRequest(id=task_id, timeout_s=0.2)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.predictions.Await(request, metadata=client.metadata)
    assert refusal(error.value)[:2] == ("UNAVAILABLE", "StoreUnavailableError")
    assert reads == 2


async def test_await_returns_the_current_state_on_a_timeout(play: Stage, client: Client) -> None:
    with play.held():
        task_id = await client.submit("plain", "user-1", {"question": fresh("q")})
        request = pb.AwaitRequest(id=task_id, timeout_s=0.2)
        prediction = await client.predictions.Await(request, metadata=client.metadata)
        assert prediction.state == pb.PREDICTION_STATE_QUEUED
    assert (await ended(client, task_id)).state == pb.PREDICTION_STATE_SUCCEEDED


async def test_a_cancelled_prediction_stays_cancelled_and_cancelling_an_ended_one_does_nothing(
    play: Stage, client: Client
) -> None:
    question = fresh("q")
    with play.held():
        task_id = await client.submit("plain", "user-1", {"question": question})
        cancelled = await client.predictions.Cancel(pb.StreamRequest(id=task_id), metadata=client.metadata)
        assert cancelled.state == pb.PREDICTION_STATE_CANCELLED
    assert (await ended(client, task_id)).error.kind == "PredictionCancelledError"
    done = await ended(client, await client.submit("plain", "user-1", {"question": fresh("q")}))
    assert await client.predictions.Cancel(await_request(done.id), metadata=client.metadata) == done
    assert play.requests_with(question) == []


async def test_a_result_stored_by_reference_is_complete_in_every_operation(play: Stage, client: Client) -> None:
    question = fresh("q") + "x" * 400_000
    task_id = await client.submit("plain", "user-1", {"question": question})
    done = await ended(client, task_id)
    assert question in json.loads(done.outputs_json)["answer"]
    assert done.provenance.session == "user-1"
    assert await client.predictions.Get(await_request(task_id), metadata=client.metadata) == done
    assert await client.predictions.Cancel(await_request(task_id), metadata=client.metadata) == done
    events = client.predictions.Stream(pb.StreamRequest(id=task_id), metadata=client.metadata)
    assert [event async for event in events][-1].ended == done
    handle = await asyncio.to_thread(play.fleet.submit, "plain", {"question": question}, session="user-1")
    await handle
    assert (await client.predictions.Get(await_request(handle.id), metadata=client.metadata)).outputs_json


async def test_a_lost_payload_fails_its_prediction(play: Stage, client: Client) -> None:
    task_id = await client.submit("plain", "user-1", {"question": fresh("q") + "x" * 400_000})
    assert (await ended(client, task_id)).state == pb.PREDICTION_STATE_SUCCEEDED
    with Redis.from_url(play.url) as server:
        server.delete(*server.keys("dspex:payload:*"))
    for call in (client.predictions.Get, client.predictions.Cancel):
        lost = await call(await_request(task_id), metadata=client.metadata)
        assert (lost.state, lost.error.kind) == (pb.PREDICTION_STATE_FAILED, "PayloadLostError")


async def test_a_failed_prediction_has_its_error_and_fields(client: Client) -> None:
    prediction = await ended(client, await client.submit("nowhere", "user-1", {"question": "?"}))
    assert prediction.state == pb.PREDICTION_STATE_FAILED
    assert prediction.error.kind == "ProgramNotFoundError"
    assert json.loads(prediction.error.fields_json)[0] == "nowhere"


async def test_a_batch_answers_in_order_with_each_error_in_its_place(client: Client) -> None:
    inputs = [json.dumps({"question": f"{n}"}).encode() for n in range(20)]
    requests = [pb.SubmitRequest(program="plain", session="user-1", inputs_json=text) for text in inputs]
    requests[7].inputs_json = b"[1]"
    requests[9].at_least = "soon"
    batch = pb.SubmitBatchRequest(requests=requests)
    answer = await client.predictions.SubmitBatch(batch, metadata=client.metadata)
    assert [submitted.error.kind for submitted in answer.submitted if submitted.HasField("error")] == [
        "InputError",
        "MalformedError",
    ]
    assert answer.submitted[7].HasField("error")
    found = await asyncio.gather(
        *(ended(client, submitted.handle.id) for submitted in answer.submitted if submitted.HasField("handle"))
    )
    answers = [json.loads(prediction.outputs_json)["answer"] for prediction in found]
    assert answers == [f"answer of {n}" for n in range(20) if n not in (7, 9)]


async def test_batch_requests_may_differ_in_more_than_their_inputs(play: Stage, client: Client) -> None:
    token = await client.publish("user-1", temp=0.5)
    questions = [fresh("q") for _ in range(6)]
    requests = [
        pb.SubmitRequest(program=program, session="user-1", inputs_json=json.dumps({"question": question}).encode())
        for question, program in zip(questions, ["plain", "qa"] * 3, strict=True)
    ]
    requests[1].at_least = token
    requests[2].priority = 9
    requests[4].stream = True
    answer = await client.predictions.SubmitBatch(pb.SubmitBatchRequest(requests=requests), metadata=client.metadata)
    found = await asyncio.gather(*(ended(client, submitted.handle.id) for submitted in answer.submitted))
    assert [json.loads(prediction.outputs_json)["answer"] for prediction in found] == [
        f"answer of {question}" for question in questions
    ]
    assert [prediction.provenance.program for prediction in found] == ["plain", "qa"] * 3
    assert play.requests_with(questions[4])[0].body["stream"] is True


async def test_a_conflict_in_a_batch_affects_only_its_request_and_keys_apply_within_it(client: Client) -> None:
    key, inputs = fresh("key"), {"question": fresh("q")}
    first = await client.submit("plain", "user-1", inputs, idempotency_key=key)

    def asking(question: object, key: str) -> pb.SubmitRequest:
        return pb.SubmitRequest(
            program="plain", session="user-1", inputs_json=json.dumps(question).encode(), idempotency_key=key
        )

    other, twice = {"question": fresh("q")}, fresh("key")
    requests = [asking(inputs, key), asking(other, key), asking(other, twice), asking(other, twice)]
    answer = await client.predictions.SubmitBatch(pb.SubmitBatchRequest(requests=requests), metadata=client.metadata)
    assert [submitted.error.kind for submitted in answer.submitted] == ["", "IdempotencyConflictError", "", ""]
    assert answer.submitted[0].handle.id == first
    assert answer.submitted[2].handle.id == answer.submitted[3].handle.id


async def test_a_batch_above_the_limit_is_rejected_as_a_whole(client: Client) -> None:
    batch = pb.SubmitBatchRequest(requests=[pb.SubmitRequest(program="plain")] * 1_001)
    status, kind, _ = await refused(client.predictions.SubmitBatch(batch, metadata=client.metadata))
    assert (status, kind) == ("RESOURCE_EXHAUSTED", "TooLargeError")


async def test_an_idempotency_key_is_one_prediction_per_client(client: Client) -> None:
    key, inputs = fresh("key"), {"question": fresh("q")}
    ids = [await client.submit("plain", "user-1", inputs, idempotency_key=key) for _ in range(3)]
    assert len(set(ids)) == 1
    status, kind, _ = await refused(client.submit("plain", "user-1", {"question": "other"}, idempotency_key=key))
    assert (status, kind) == ("ALREADY_EXISTS", "IdempotencyConflictError")
    another = await client.with_token("predictor").submit("plain", "user-1", inputs, idempotency_key=key)
    assert another not in ids


async def test_a_prediction_is_hidden_from_grants_that_do_not_cover_its_session(client: Client) -> None:
    task_id = await client.submit("plain", "user-1", {"question": fresh("q")})
    await ended(client, task_id)
    other = client.with_token("other")
    for method in (other.predictions.Get, other.predictions.Cancel):
        assert await refused(method(await_request(task_id), metadata=other.metadata)) == (
            "NOT_FOUND", "PredictionNotFoundError", [task_id]
        )  # fmt: skip
    assert (await refused(other.submit("plain", "user-1", {})))[0] == "PERMISSION_DENIED"
    assert (await refused(client.predictions.Get(await_request("made-up"), metadata=client.metadata)))[0] == "NOT_FOUND"
    predictor = client.with_token("predictor")
    found = await predictor.predictions.Get(await_request(task_id), metadata=predictor.metadata)
    assert found.state == pb.PREDICTION_STATE_SUCCEEDED


async def test_a_prediction_submitted_from_python_can_be_read_once_it_has_succeeded(
    play: Stage, client: Client
) -> None:
    handle = await asyncio.to_thread(play.fleet.submit, "plain", {"question": fresh("q")}, session="user-1")
    await handle
    found = await client.predictions.Get(await_request(handle.id), metadata=client.metadata)
    assert found.state == pb.PREDICTION_STATE_SUCCEEDED


async def test_a_passed_deadline_ends_the_prediction(play: Stage, client: Client) -> None:
    with play.held():
        task_id = await client.submit("plain", "user-1", {"question": fresh("q")}, deadline_s=0.01)
        await asyncio.sleep(0.05)
    prediction = await ended(client, task_id)
    assert (prediction.state, prediction.error.kind) == (pb.PREDICTION_STATE_FAILED, "DeadlineExceededError")


async def test_a_program_is_registered_listed_read_and_used(client: Client) -> None:
    name = fresh("prog")
    request = pb.RegisterRequest(name=name, spec_json=json.dumps(SPEC).encode(), labels=["prod"])
    registered = await client.programs.Register(request, metadata=client.metadata)
    assert (registered.name, registered.version, list(registered.labels)) == (name, 1, ["prod"])
    assert (await client.programs.Register(request, metadata=client.metadata)).version == 1
    listed = await client.programs.List(pb.ListProgramsRequest(prefix=name), metadata=client.metadata)
    assert [(program.name, program.version, program.spec_json) for program in listed.programs] == [(name, 1, b"")]
    found = await client.programs.Get(pb.GetProgramRequest(reference=f"{name}@prod"), metadata=client.metadata)
    assert json.loads(found.spec_json)["bindings"] == {"temperature": "temp"}
    prediction = await ended(client, await client.submit(f"{name}@prod", "user-1", {"question": fresh("q")}))
    assert (prediction.provenance.program, prediction.provenance.program_version) == (name, 1)


async def test_programs_are_listed_page_by_page(client: Client) -> None:
    prefix = fresh("page")
    for n in range(5):
        request = pb.RegisterRequest(name=f"{prefix}-{n}", spec_json=json.dumps(SPEC).encode())
        await client.programs.Register(request, metadata=client.metadata)
    names, token = [], ""
    while token or not names:
        page = pb.ListProgramsRequest(prefix=prefix, page_size=2, page_token=token)
        answer = await client.programs.List(page, metadata=client.metadata)
        names += [program.name for program in answer.programs]
        token = answer.next_page_token
        assert len(answer.programs) <= 2
    assert names == [f"{prefix}-{n}" for n in range(5)]


@pytest.mark.parametrize(
    ("spec", "kind"),
    [(b"", "MalformedError"), (b"{", "ProgramSpecError"), (b'{"module":"os:system"}', "ProgramSpecError")],
)
async def test_an_invalid_spec_is_not_stored(client: Client, spec: bytes, kind: str) -> None:
    name = fresh("bad")
    request = pb.RegisterRequest(name=name, spec_json=spec)
    assert (await refused(client.programs.Register(request, metadata=client.metadata)))[:2] == (
        "INVALID_ARGUMENT", kind
    )  # fmt: skip
    missing = pb.GetProgramRequest(reference=name)
    assert (await refused(client.programs.Get(missing, metadata=client.metadata)))[0] == "NOT_FOUND"
    wrong = pb.RegisterRequest(name=name, spec_json=json.dumps(SPEC).encode(), labels=["no label!"])
    assert (await refused(client.programs.Register(wrong, metadata=client.metadata)))[0] == "INVALID_ARGUMENT"
    assert (await refused(client.programs.Get(missing, metadata=client.metadata)))[0] == "NOT_FOUND"


async def test_registering_needs_the_admin_scope(client: Client) -> None:
    for token in ("publisher", "reader", "predictor"):
        other = client.with_token(token)
        request = pb.RegisterRequest(name="x", spec_json=b"{}")
        assert (await refused(other.programs.Register(request, metadata=other.metadata)))[:2] == (
            "PERMISSION_DENIED", "NotGrantedError"
        )  # fmt: skip


async def test_a_finished_prediction_is_replayed_under_its_revision(
    play: Stage, served: Gateway, client: Client
) -> None:
    session, question = fresh("user"), fresh("q")
    token = await client.publish(session, temp=0.25)
    task = await client.submit("qa", session, {"question": question})
    first_answer = await ended(client, task)
    await client.publish(session, temp=0.75)
    replayed = await client.predictions.Replay(pb.ReplayRequest(id=task), metadata=client.metadata)
    assert (replayed.first, json.loads(replayed.inputs_json)) == (first_answer, {"question": question})
    assert (replayed.again.state, replayed.again.provenance.token) == (pb.PREDICTION_STATE_SUCCEEDED, token)
    assert replayed.again.id != task
    assert list(replayed.differences) == []
    assert [request.body["temperature"] for request in play.requests_with(question)] == [0.25, 0.25]
    with play.held():
        waiting = pb.ReplayRequest(id=task, timeout_s=0.1)
        unfinished = await client.predictions.Replay(waiting, metadata=client.metadata)
        assert (unfinished.again.state, list(unfinished.differences)) == (pb.PREDICTION_STATE_QUEUED, [])
    assert (await ended(client, unfinished.again.id)).state == pb.PREDICTION_STATE_SUCCEEDED
    async with http(served.http_address) as over_http:
        over = (await over_http.post(f"/v1/predictions/{task}/replay")).json()
        assert (over["first"]["id"], over["again"]["provenance"]["token"]) == (task, token)


async def test_what_has_no_result_or_is_anothers_is_not_replayed(play: Stage, client: Client) -> None:
    session = fresh("user")
    await client.publish(session, temp=0.25)
    task = await client.submit("qa", session, {"question": fresh("q")})
    await ended(client, task)
    for token in ("other", "predictor"):
        caller = client.with_token(token)
        call = caller.predictions.Replay(pb.ReplayRequest(id=task), metadata=caller.metadata)
        if token == "other":
            assert (await refused(call))[1] == "PredictionNotFoundError"
        else:
            assert (await call).again.state == pb.PREDICTION_STATE_SUCCEEDED
    late = pb.ReplayRequest(id=task, timeout_s=-1)
    assert (await refused(client.predictions.Replay(late, metadata=client.metadata)))[2][0] == "timeout_s"
    failing = await client.submit("nothing", session, {"question": "?"})
    await ended(client, failing)
    with play.held():
        waiting = await client.submit("qa", session, {"question": fresh("q")})
        for task_id in (failing, waiting):
            request = pb.ReplayRequest(id=task_id)
            found = await refused(client.predictions.Replay(request, metadata=client.metadata))
            assert found[:2] == ("FAILED_PRECONDITION", "PredictionNotReplayableError")


async def test_a_prediction_has_the_programs_steps_if_they_are_asked_for(client: Client) -> None:
    with_steps, without = [
        await client.submit("plain", "user-1", {"question": fresh("q")}, **options) for options in ({"trace": True}, {})
    ]
    [step] = json.loads((await ended(client, with_steps)).trace_json)
    assert step["outputs"] == json.loads((await ended(client, with_steps)).outputs_json)
    assert not (await ended(client, without)).trace_json


async def test_the_lowest_priority_is_zero_and_not_the_default(play: Stage, client: Client) -> None:
    with play.held():
        last, usual, first_task = [
            await client.submit("plain", "user-1", {"question": fresh("q")}, **options)
            for options in ({"priority": 0}, {}, {"priority": 9})
        ]
        with Redis.from_url(play.url) as redis:
            keys: Any = redis.keys("predictions*")
            queues: dict[Any, Any] = {key: redis.lrange(key, 0, -1) for key in keys}
        homes = {task: key for key, found in queues.items() for task in (last, usual, first_task) if task in str(found)}
    assert len(set(homes.values())) == 3, homes
