"""The engine behind a profile's LM: as many calls as one likes, ended when nobody wants them, streamed and blocking."""

from __future__ import annotations

import asyncio
import copy
import os
import threading
from collections.abc import Generator
from typing import Any

import dspy
import pytest
from dspy.lm15 import Message, Request, Response, UnsupportedFeatureError, Usage
from dspy.utils.callback import BaseCallback
from dspy.utils.exceptions import LMTimeoutError
from pydantic import SecretStr

from snakepit_bridge.lm.blocking import BlockingEngine
from snakepit_bridge.lm.engine import LMCall, LMEngine, LMMiddleware, note_answering
from snakepit_bridge.lm.failures import AnswerRefusedError, find_usage
from snakepit_bridge.lm.profiles import LMProfile, LMProfiles
from snakepit_bridge.process.home_loop import get_home_loop, run_blocking
from snakepit_bridge.testing import RecordingLM
from tests.harness.waiting import PATIENCE_S, eventually, wait_until

KEY = "sk-hunter2"
USED = Usage(input_tokens=100, output_tokens=50)


@pytest.fixture
def server() -> Generator[RecordingLM]:
    with RecordingLM(lambda _: {"answer": "Paris"}, api_key=KEY) as lm:
        yield lm


def profile(server: RecordingLM, **changes: Any) -> LMProfile:
    return LMProfile("demo", "openai/demo", server.url, SecretStr(KEY), **changes)


def engine_of(lm: Any) -> BlockingEngine:
    return lm.engine


async def ask(lm: dspy.LM, **config: Any) -> str:
    with dspy.context(lm=lm, trace=[], disable_history=True):
        return (await dspy.Predict("question -> answer").acall(question="Capital of France?", config=config)).answer


# ---------------------------------------------------------------- without a thread


class Called(BaseCallback):
    """Counts the LM calls that DSPy reports."""

    def __init__(self) -> None:
        self.count = 0

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.count += 1


async def pass_on(call: LMCall) -> Response:
    return await call.engine.send(call.request, call.sink)


def count_threaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by the name of each function that is moved to a thread."""
    moved, to_thread = list[str](), asyncio.to_thread

    async def count(function: Any, *args: Any, **kwargs: Any) -> Any:
        moved.append(function.__name__)
        return await to_thread(function, *args, **kwargs)

    monkeypatch.setattr(asyncio, "to_thread", count)
    return moved


async def test_a_workers_call_needs_no_thread(server: RecordingLM, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = profile(server).build(middleware=pass_on)
    assert await ask(lm) == "Paris"  # its first call builds the client
    moved = count_threaded(monkeypatch)
    assert await ask(lm, temperature=0.5, min_p=0.1) == "Paris"
    assert moved == []
    assert {"temperature": 0.5, "min_p": 0.1}.items() <= server.requests[1].body.items()


@pytest.mark.parametrize("how", ["history", "callbacks", "answers", "bare"])
async def test_a_call_of_which_more_is_wanted_is_dspys_own(
    server: RecordingLM, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    lm, called = profile(server).build(middleware=None if how == "bare" else pass_on), Called()
    moved = count_threaded(monkeypatch)
    wanted: dict[str, Any] = {"callbacks": [called]} if how == "callbacks" else {}
    with dspy.context(disable_history=how != "history", **wanted):
        outputs = await lm.acall("Capital of France?", **({"n": 2} if how == "answers" else {}))
    assert len(outputs) == (2 if how == "answers" else 1)
    assert "prepare" in moved
    assert called.count == (how == "callbacks")
    assert len(lm.history) == (how == "history")


# ---------------------------------------------------------------- many at once


@pytest.mark.parametrize("open_files", [0, 1_100])
async def test_a_kept_connection_is_used_again_whatever_its_file_number(server: RecordingLM, open_files: int) -> None:
    """``select`` can't be asked about files above 1,023."""
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(open_files)]
    try:
        lm = profile(server).build()
        for _ in range(3):
            assert await ask(lm) == "Paris"
        pool: Any = engine_of(lm).async_engine._backends[asyncio.get_running_loop()]._transport
        assert pool.pool_stats()["total_opened"] == 1
    finally:
        for each in held:
            os.close(each)


async def test_more_calls_than_dspys_own_pool_has_connections_are_under_way_at_once(server: RecordingLM) -> None:
    server.hang(times=None)
    lm = profile(server).build()
    calls = [asyncio.create_task(ask(lm)) for _ in range(300)]
    try:
        await asyncio.to_thread(server.wait_for_requests, 300, PATIENCE_S)
    finally:
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def test_each_loop_has_its_own_connections(server: RecordingLM) -> None:
    lm = profile(server).build()

    assert await ask(lm) == "Paris"
    assert await asyncio.to_thread(lambda: asyncio.run(ask(lm))) == "Paris"
    assert await ask(lm) == "Paris"


async def test_a_profile_can_be_prepared_so_that_no_call_waits_for_its_client(server: RecordingLM) -> None:
    profiles = LMProfiles([profile(server), LMProfile("nowhere", "no-such-provider/model", engine="lm15")])
    await profiles.warm()
    [client] = profiles.get_engine("demo")._backends.values()
    assert client._client is not None
    assert server.requests == []
    assert await ask(profiles.choose("demo").lm) == "Paris"


def test_copies_share_the_connections(server: RecordingLM) -> None:
    lm = profile(server).build()

    assert copy.deepcopy(lm).engine is lm.engine
    assert lm.copy(temperature=0.5).engine is lm.engine


# ---------------------------------------------------------------- ending a call


async def test_a_cancelled_call_leaves_the_provider_at_once(server: RecordingLM) -> None:
    server.hang()
    call = asyncio.create_task(ask(profile(server).build()))
    await asyncio.to_thread(server.wait_for_requests, 1)
    call.cancel()

    left = await eventually(lambda: _status(server), "the server sees the client leave")
    assert left == 499
    with pytest.raises(asyncio.CancelledError):
        await call


def test_a_call_from_a_thread_runs_on_the_home_loop_and_can_be_ended_there(server: RecordingLM) -> None:
    server.hang()
    running: list[asyncio.Task[Any]] = []

    async def around(call: LMCall) -> Response:
        running.append(asyncio.current_task())  # pyright: ignore[reportArgumentType]
        return await call.engine.send(call.request)

    raised: list[BaseException] = []
    thread = threading.Thread(target=lambda: _blocking(profile(server).build(middleware=around), raised))
    thread.start()
    server.wait_for_requests(1)
    get_home_loop().call_soon_threadsafe(running[0].cancel)
    thread.join(PATIENCE_S)

    assert not thread.is_alive()
    assert raised
    wait_until(lambda: server.requests[0].status == 499, "the server sees the client leave")


def _blocking(lm: dspy.LM, raised: list[BaseException]) -> None:
    try:
        with dspy.context(lm=lm):
            dspy.Predict("question -> answer")(question="Capital of France?")
    except BaseException as error:  # noqa: BLE001 (the test looks at it)
        raised.append(error)


async def _status(server: RecordingLM) -> int | None:
    return server.requests[0].status


async def test_a_request_ends_with_its_timeout(server: RecordingLM) -> None:
    server.hang()
    with pytest.raises(LMTimeoutError, match=r"no whole answer within 0\.2 s"):
        await ask(profile(server, timeout_s=0.2).build())


# ---------------------------------------------------------------- what surrounds a call


def recording(calls: list[LMCall]) -> LMMiddleware:
    async def around(call: LMCall) -> Response:
        calls.append(call)
        assert asyncio.get_running_loop() is get_home_loop()
        return await call.engine.send(call.request, call.sink)

    return around


async def test_every_kind_of_call_goes_through_what_surrounds_it(server: RecordingLM) -> None:
    calls: list[LMCall] = []
    lm = profile(server).build(middleware=recording(calls))

    assert await ask(lm) == "Paris"
    assert await asyncio.to_thread(lambda: _sync(lm)) == "Paris"
    assert run_blocking_in_a_thread(ask(lm)) == "Paris"
    *pieces, last = await _streamed(lm)
    assert "Paris" in "".join(piece.chunk for piece in pieces)
    assert last.answer == "Paris"
    assert [call.sink is not None for call in calls] == [False, False, False, True]
    assert len(server.requests) == 4


async def test_what_surrounds_a_call_may_answer_it_and_a_stream_shows_that_too(server: RecordingLM) -> None:
    kept: list[Response] = []

    async def around(call: LMCall) -> Response:
        if not kept:
            kept.append(await call.engine.send(call.request))
        return kept[0]

    lm = profile(server).build(middleware=around)
    assert await ask(lm) == "Paris"
    assert (await _streamed(lm))[-1].answer == "Paris"
    assert len(server.requests) == 1


def _sync(lm: dspy.LM) -> str:
    with dspy.context(lm=lm):
        return dspy.Predict("question -> answer")(question="Capital of France?").answer


def run_blocking_in_a_thread(work: Any) -> Any:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(run_blocking(work)))
    thread.start()
    thread.join()
    return answers[0]


async def _streamed(lm: dspy.LM) -> list[Any]:
    listener = dspy.streaming.StreamListener(signature_field_name="answer")
    program: Any = dspy.streamify(dspy.Predict("question -> answer"), stream_listeners=[listener])
    with dspy.context(lm=lm):
        return [piece async for piece in program(question="Capital of France?")]


# ---------------------------------------------------------------- keywords, keys, litellm


async def test_a_keyword_that_no_canonical_request_has_a_place_for_is_sent_as_it_is(server: RecordingLM) -> None:
    lm = profile(server, parameters={"repetition_penalty": 1.1, "temperature": 0.5}).build()
    await ask(lm, min_p=0.1)

    server.assert_sent(repetition_penalty=1.1, temperature=0.5, min_p=0.1)


def test_no_key_is_shown_and_none_is_saved(server: RecordingLM) -> None:
    lm = profile(server).build()
    engine = engine_of(lm)

    for thing in (
        engine,
        engine.async_engine,
        engine.async_engine.endpoint,
        lm.dump_state(),
        vars(engine.async_engine),
    ):
        assert KEY not in repr(thing)
    assert BlockingEngine.load_state(engine.dump_state()).async_engine.endpoint.model == "openai/demo"


def test_the_models_abilities_are_those_of_dspys_own_lm() -> None:
    known = LMProfile("smart", "openai/gpt-4o", api_key=SecretStr(KEY)).build()
    unknown = LMProfile("mine", "openai/nobody-knows-it", api_key=SecretStr(KEY)).build()

    assert (known.supports_function_calling, known.supports_response_schema) == (True, True)
    assert "temperature" in known.supported_params
    assert (unknown.supports_function_calling, unknown.supports_response_schema) == (False, False)


@pytest.mark.parametrize("changes", [{"parameters": {"extra_headers": {"x-team": "blue"}}}, {"engine": "litellm"}])
async def test_what_only_litellm_can_do_goes_through_the_same_door(
    server: RecordingLM, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    calls: list[LMCall] = []

    assert await ask(profile(server, **changes).build(middleware=recording(calls))) == "Paris"
    assert len(calls) == 1


class Backend:
    """Stands for a backend of the engine; it refuses to answer, or can't send the request."""

    def __init__(self, *, can_send: bool = True) -> None:
        self._can_send = can_send

    async def complete(self, _: Request) -> Response:
        if not self._can_send:
            raise UnsupportedFeatureError("not here")
        return Response(None, "m", Message.assistant("no"), "content_filter", USED)


@pytest.mark.parametrize(
    ("model", "can_send", "dialect"),
    [
        ("anthropic/claude-sonnet-4-5", True, "anthropic"),
        ("anthropic/claude-sonnet-4-5", False, ""),
        ("gemini/gemini-2.5-pro", False, ""),
        ("xai/grok-4", True, "xai"),
        ("xai/grok-4", False, ""),
        ("bedrock/some-model", True, ""),
    ],
)
async def test_a_refusal_is_counted_as_the_api_that_sent_it_counts(
    model: str, can_send: bool, dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LMEngine, "_get_lm15_backend", lambda *_: Backend(can_send=can_send))
    monkeypatch.setattr(LMEngine, "_litellm_backend", Backend())
    lm: Any = LMProfile("p", model).build()
    with note_answering("unknown") as answering, pytest.raises(AnswerRefusedError) as refused:
        await lm.engine.async_engine.send(Request(model=model, messages=(Message.user("why?"),)))
    assert (answering.dialect, find_usage(refused.value)) == (dialect, USED)


@pytest.mark.parametrize(
    ("model", "dialect"),
    [
        ("openai/gpt-4o", "openai-chat"),
        ("anthropic/claude-sonnet-4-5", "anthropic"),
        ("gemini/gemini-2.5-pro", "gemini"),
        ("xai/grok-4", "xai"),
    ],
)
def test_an_engine_tells_how_its_provider_counts(model: str, dialect: str) -> None:
    lm: Any = LMProfile("p", model).build()
    assert lm.engine.async_engine.dialect == dialect
