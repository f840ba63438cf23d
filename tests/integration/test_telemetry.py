"""Telemetry of real workers: one trace per prediction on every pool, and the metrics at both exits."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any
from uuid import uuid4

import dspy
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import BridgeError, LMUnavailableError, SessionNotFoundError
from tests.harness.cluster import free_ports
from tests.harness.otlp import Collector, ExportedSpan, collector
from tests.harness.spans import recorded_spans
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, wait_until
from tests.integration.gateway_clients import connected, first, gateway, http

CONSUMER, CLIENT = 5, 3
CONCURRENCY = {"asyncio": 500, "threads": 16, "prefork": 4}


@pytest.fixture(scope="module")
def exported() -> Generator[Collector]:
    with collector() as running:
        yield running


@pytest.fixture(scope="module")
def port() -> int:
    return free_ports(1)[0]


@pytest.fixture(scope="module", params=["asyncio", "threads", "prefork"])
def play(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, exported: Collector, port: int
) -> Generator[Stage]:
    settings: dict[str, Any] = {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp,prometheus",
        "OTEL_EXPORTER_OTLP_ENDPOINT": exported.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(port),
    }
    with stage(tmp_path_factory.mktemp("telemetry"), worker=False, **settings) as playing:
        playing.start(pool=request.param, concurrency=CONCURRENCY[request.param])
        playing.fleet.register("qa", dspy.ChainOfThought("question -> answer"))
        yield playing


@pytest.fixture
def sent() -> Generator[InMemorySpanExporter]:
    """The spans of this process, which submits."""
    with recorded_spans() as exporter:
        yield exporter


def submit_span(sent: InMemorySpanExporter) -> tuple[str, str]:
    """Return trace and span id of the last submit."""
    context = [span for span in sent.get_finished_spans() if span.name.startswith("submit ")][-1].context
    assert context is not None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def whole_trace(exported: Collector, trace: str, last: str = "tasks.predict") -> list[ExportedSpan]:
    """Return a trace once its last span has arrived; spans are exported as they end, so the others are there too."""
    wait_until(lambda: [span for span in exported.trace(trace) if span.name == last], f"the span {last}")
    return exported.trace(trace)


def test_one_prediction_is_one_trace_from_submit_to_commit(
    play: Stage, exported: Collector, sent: InMemorySpanExporter
) -> None:
    result = play.fleet.submit("qa", {"question": fresh("q")})
    provenance = result.get(PATIENCE_S).provenance
    trace, submitted = submit_span(sent)
    spans = {span.name: span for span in whole_trace(exported, trace)}
    tree = {
        name: next((each.name for each in spans.values() if each.id == span.parent), "") for name, span in spans.items()
    }
    assert tree == {
        "tasks.predict": "",
        "snapshot": "tasks.predict",
        "bind": "tasks.predict",
        "invoke_agent qa": "tasks.predict",
        "VariableAwareChainOfThought.forward": "invoke_agent qa",
        "Predict.forward": "VariableAwareChainOfThought.forward",
        "chat demo": "Predict.forward",
        "commit": "tasks.predict",
    }
    task, call = spans["tasks.predict"], spans["chat demo"]
    assert (task.parent, task.kind, call.kind) == (submitted, CONSUMER, CLIENT)
    assert task.attributes["messaging.message.id"] == result.id
    assert provenance.trace_id == trace
    for span in spans.values():
        assert span.attributes["dspex.session"] == provenance.session
        assert span.attributes["dspex.token"] == provenance.token
        assert (span.attributes["gen_ai.prompt.name"], span.attributes["gen_ai.prompt.version"]) == ("qa", "1")
    (usage,) = provenance.usage.values()
    assert call.attributes["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert call.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert not [span for span in spans.values() if span.failed]


def test_prompts_answers_and_keys_stay_out_of_spans(
    play: Stage, exported: Collector, sent: InMemorySpanExporter
) -> None:
    question = fresh("secret-question")
    play.fleet.submit("qa", {"question": question}).get(PATIENCE_S)
    spans = whole_trace(exported, submit_span(sent)[0])
    texts = repr(spans)
    assert question not in texts
    assert "sesame" not in texts


def test_no_span_of_many_concurrent_predictions_has_a_foreign_parent(
    play: Stage, exported: Collector, sent: InMemorySpanExporter, request: pytest.FixtureRequest
) -> None:
    program, count = fresh("many"), 500 if "asyncio" in request.node.name else 60
    play.lm.delay(0.5)
    play.fleet.register(program, dspy.ChainOfThought("question -> answer"))
    results = [play.fleet.submit(program, {"question": f"{program} {number}"}) for number in range(count)]
    for result in results:
        result.get(PATIENCE_S)
    play.lm.delay(0)
    traces = {f"{span.context.trace_id:032x}" for span in sent.get_finished_spans() if span.context is not None}
    assert len(traces) == count
    for trace in traces:
        spans = whole_trace(exported, trace)
        assert len(spans) == 8
        ids = {span.id for span in spans}
        (root,) = [span for span in spans if span.parent not in ids]
        assert root.name == "tasks.predict"


def test_a_retried_call_has_events_and_a_failed_prediction_its_error(
    play: Stage, exported: Collector, sent: InMemorySpanExporter
) -> None:
    question = fresh("q")
    play.lm.fail(None, status=503, containing=question)
    with pytest.raises(LMUnavailableError):
        play.fleet.submit("qa", {"question": question}).get(PATIENCE_S)
    play.lm.faults.clear()
    spans = {span.name: span for span in whole_trace(exported, submit_span(sent)[0])}
    retries = [(name, attributes["error.type"]) for name, attributes in spans["chat demo"].events]
    assert retries == [("dspex.lm.retry", "server")] * 2
    assert spans["tasks.predict"].attributes["error.type"] == "LMUnavailableError"
    assert spans["tasks.predict"].failed


def test_each_input_of_a_batch_has_a_trace_that_is_linked_with_the_batch(
    play: Stage, exported: Collector, sent: InMemorySpanExporter
) -> None:
    results = play.fleet.submit_batch("qa", [{"question": fresh("q")} for _ in range(3)])
    for result in results:
        result.get(PATIENCE_S)
    trace, submitted = submit_span(sent)
    batch = whole_trace(exported, trace, "tasks.predict_batch")[0]
    assert batch.parent == submitted
    items = [exported.find("tasks.predict", messaging__message__id=result.id)[0] for result in results]
    assert len({item.trace for item in items} | {trace}) == 4
    assert all(item.links == (batch.id,) and not item.parent for item in items)
    assert set(batch.links) == {item.id for item in items}


def test_a_redelivered_prediction_is_a_second_attempt_in_the_same_trace(
    play: Stage, exported: Collector, sent: InMemorySpanExporter
) -> None:
    question = fresh("held")
    play.lm.hang(1, containing=question)
    result = play.fleet.submit("qa", {"question": question})
    play.await_asked(question)
    trace, submitted = submit_span(sent)
    play.worker.container.kill()
    play.worker.container.restart()
    result.get(PATIENCE_S)
    # Of the first attempt's spans only those arrived that had ended before the kill.
    (task,) = [span for span in whole_trace(exported, trace) if span.name == "tasks.predict"]
    assert (task.parent, task.links) == (submitted, (submitted,))
    assert task.attributes["dspex.attempt"] == 2


def test_both_exits_count_the_predictions_of_all_processes(
    play: Stage, exported: Collector, port: int, request: pytest.FixtureRequest
) -> None:
    program, count = fresh("counted"), 5
    play.fleet.register(program, dspy.Predict("question -> answer"))
    for number in range(count):
        play.fleet.submit(program, {"question": f"{program} {number}"}).get(PATIENCE_S)
    wait_until(lambda: exported.total("dspex.predictions", program, "ok") == count, "the metrics to be exported")
    assert exported.total("dspex.prediction.latency", program) == count

    def scrape() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
            return page.read().decode()

    line = f'dspex_predictions_total{{dspex_outcome="ok",dspex_program="{program}",error_type=""}} {count}.0'
    wait_until(lambda: line in scrape(), line)
    assert "gen_ai_client_inference_duration_seconds_count{" in scrape()
    capacity = next(places for pool, places in CONCURRENCY.items() if pool in request.node.name)
    assert f"dspex_worker_capacity {capacity:.1f}" in scrape()
    wait_until(lambda: "dspex_worker_in_flight 0.0" in scrape(), "no task in flight")


def test_each_kind_of_end_is_counted_once(play: Stage, exported: Collector) -> None:
    program, question, session = fresh("ends"), fresh("q"), fresh("s")
    play.fleet.register(program, dspy.Predict("question -> answer"))
    play.lm.hang(1, containing=question)
    cancelled = play.fleet.submit(program, {"question": question})
    play.await_asked(question)
    assert cancelled.cancel()
    batch = play.fleet.submit_batch(program, [{"question": fresh("q")} for _ in range(3)], session=session)
    for failed in batch:
        with pytest.raises(SessionNotFoundError):
            failed.get(PATIENCE_S)
    play.fleet.submit(program, {"question": fresh("q")}).get(PATIENCE_S)
    wait_until(lambda: exported.total("dspex.predictions", program, "ok") == 1, "the success to be exported")
    wait_until(
        lambda: exported.total("dspex.predictions", "unknown", "SessionNotFoundError") >= 3, "the failures as well"
    )
    # A client's own commit ends it; the worker's comes second and counts nothing.
    assert exported.total("dspex.predictions", program, "failed") == 0


def test_a_prediction_whose_binding_fails_is_counted_with_its_program(play: Stage, exported: Collector) -> None:
    program = fresh("unbound")
    play.fleet.register(program, dspy.Predict("question -> answer"), bindings={"temperature": "no_such_variable"})
    with pytest.raises(BridgeError):
        play.fleet.submit(program, {"question": fresh("q")}).get(PATIENCE_S)
    wait_until(lambda: exported.total("dspex.predictions", program, "failed") == 1, "the failure to be exported")


TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"


def parent_of(span: ReadableSpan) -> str:
    """Return the trace and span id of a span's parent."""
    assert span.parent is not None
    return f"{span.parent.trace_id:032x}-{span.parent.span_id:016x}"


@pytest.mark.parametrize("protocol", ["http", "grpc"])
async def test_the_gateway_continues_the_trace_of_a_request(
    redis_url: str, sent: InMemorySpanExporter, protocol: str
) -> None:
    async with gateway(redis_url) as served:
        if protocol == "http":
            async with http(served.http_address, None) as client:
                submit = {"program": "qa", "inputs": {"question": "?"}}
                answer = await client.post("/v1/predictions", json=submit, headers={"traceparent": TRACEPARENT})
                assert answer.status_code == 200, answer.text
        else:
            async with connected(served.grpc_address) as stub:
                request = pb.SubmitRequest(program="qa", inputs_json=b'{"question": "?"}')
                await stub.predictions.Submit(request, metadata=(("traceparent", TRACEPARENT),))
    submitted, served_request = sent.get_finished_spans()
    assert served_request.name == "dspex.fleet.v1.Predictions/Submit"
    assert parent_of(served_request) == f"{TRACE}-{SPAN}"
    assert (submitted.name, submitted.parent) == ("submit predictions", served_request.context)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
async def test_a_stream_of_the_gateway_is_one_span_until_its_reader_leaves(
    redis_url: str, sent: InMemorySpanExporter, protocol: str
) -> None:
    session = fresh("s")
    async with gateway(redis_url) as served, connected(served.grpc_address) as stub:
        await stub.publish(session, temperature=0.5)
        sent.clear()
        if protocol == "http":
            async with http(served.http_address, None) as client:
                path, headers = f"/v1/sessions/{session}/watch", {"traceparent": TRACEPARENT}
                async with client.stream("GET", path, headers=headers) as answer:
                    await anext(answer.aiter_lines())
                    assert not sent.get_finished_spans()
        else:
            watching = stub.variables.Watch(pb.WatchRequest(session=session), metadata=(("traceparent", TRACEPARENT),))
            await first(watching, 1)
            assert not sent.get_finished_spans()
            watching.cancel()
        # The gateway runs on this loop, and ends the stream once it sees that the reader has left.
        await asyncio.to_thread(wait_until, sent.get_finished_spans, "the span of the stream to end")
    (span,) = sent.get_finished_spans()
    assert (span.name, parent_of(span)) == ("dspex.fleet.v1.Variables/Watch", f"{TRACE}-{SPAN}")
    assert span.status.is_unset


async def test_a_streamed_prediction_of_a_gateway_is_one_trace_with_its_reader(
    play: Stage, exported: Collector, sent: InMemorySpanExporter
) -> None:
    trace = uuid4().hex
    metadata = (("traceparent", f"00-{trace}-{SPAN}-01"),)
    async with gateway(play.url) as served, connected(served.grpc_address) as stub:
        inputs = json.dumps({"question": fresh("q")}).encode()
        request = pb.SubmitRequest(program="qa", inputs_json=inputs, stream=True)
        task_id = (await stub.predictions.Submit(request, metadata=metadata)).id
        events = [event async for event in stub.predictions.Stream(pb.StreamRequest(id=task_id), metadata=metadata)]
    assert json.loads(events[-1].ended.outputs_json)["answer"]
    assert [event for event in events if event.piece.text]
    own = {span.name: parent_of(span) for span in sent.get_finished_spans()}
    caller = f"{trace}-{SPAN}"
    assert own.pop("submit predictions").startswith(trace)
    assert own == {"dspex.fleet.v1.Predictions/Submit": caller, "dspex.fleet.v1.Predictions/Stream": caller}
    spans = {span.name: span for span in whole_trace(exported, trace)}
    assert spans["tasks.predict"].parent == submit_span(sent)[1]
    assert spans["chat demo"].attributes["gen_ai.request.stream"]


def test_every_attribute_of_the_fleets_own_is_documented(exported: Collector) -> None:
    """It comes last: it looks at what the tests before it have exported."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "telemetry.md").read_text(encoding="utf-8")
    names = {
        name
        for span in exported.spans
        for name in (*span.attributes, *(key for _, event in span.events for key in event))
    }
    own = {name for name in names if name.startswith("dspex.")}
    assert own
    assert not {name for name in own if f"`{name}`" not in page}
    assert {name.partition(".")[0] for name in names} == {"dspex", "messaging", "gen_ai", "error"}
