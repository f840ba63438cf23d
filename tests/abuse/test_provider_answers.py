"""Whatever a provider answers, a prediction ends with the right result or a named error, by so many calls.

Each case is a reply: status, body, content type, and where it is cut; each is tried streamed and unstreamed, through a
real worker. A case that fails is printed with its number and the seed that makes it again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import dspy
import pytest

from snakepit_bridge.client import Handle
from snakepit_bridge.exceptions import LMAnswerError, LMError, LMRefusedError, LMUnavailableError
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S

SSE, PLAIN = "text/event-stream", "application/json"
TRIES = 2
CASES = 160

_PROFILES = """
[profiles.odd]
model = "openai/odd"
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"
retry = {{ attempts = 2, backoff_s = 0.02 }}
circuit = {{ failures = 0 }}
"""


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), worker=False, more_profiles=_PROFILES) as playing:
        playing.fleet.register("odd", dspy.Predict("question -> answer"), lm="odd")
        playing.start(concurrency=64)
        yield playing


@dataclass(frozen=True)
class Reply:
    """What the provider answers, once or always."""

    body: Any
    status: int = 200
    content_type: str = PLAIN
    cut: int | None = None
    always: bool = True


def event(payload: Any) -> str:
    return f"data: {payload if isinstance(payload, str) else json.dumps(payload)}\n\n"


def chunk(text: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    delta = {} if text is None else {"content": text}
    return {"id": "1", "model": "odd", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def whole(text: Any, finish: Any = "stop", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"id": "1", "model": "odd", "choices": [{"index": 0, "message": message, "finish_reason": finish}], **more}


def ask(play: Stage, question: str, reply: Reply, *, stream: bool) -> Handle:
    times = None if reply.always else 1
    body = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
    play.lm.say(
        body, times, status=reply.status, content_type=reply.content_type, cut=reply.cut, containing=f"{question}."
    )
    return play.fleet.submit("odd", {"question": f"{question}."}, stream=stream)


def end(handle: Handle) -> Any:
    try:
        return handle.get(PATIENCE_S).answer
    except LMError as failed:
        return failed


# ---------------------------------------------------------------- told apart by what stands in the reply

CODES = [
    ({"error": {"code": 529, "message": "over"}}, LMUnavailableError, 529),
    ({"error": {"code": "429", "message": "slow"}}, LMUnavailableError, 429),
    ({"error": {"type": "overloaded_error", "message": "over"}}, LMUnavailableError, 500),
    ({"type": "error", "error": {"type": "rate_limit_error", "message": "slow"}}, LMUnavailableError, 429),
    ({"error": {"status": "UNAVAILABLE", "code": 503, "message": "away"}}, LMUnavailableError, 503),
    ([{"error": {"status": "RESOURCE_EXHAUSTED", "code": 429, "message": "slow"}}], LMUnavailableError, 429),
    ({"object": "error", "message": "full", "type": "ServiceUnavailable", "code": 503}, LMUnavailableError, 503),
    ({"error": "boom"}, LMUnavailableError, 0),
    ({"error": {"message": "boom"}}, LMUnavailableError, 0),
    ({"error": {"code": 401, "message": "no key"}}, LMRefusedError, 401),
    ({"error": {"code": "invalid_api_key", "message": "no key"}}, LMRefusedError, 401),
    ({"error": {"code": "insufficient_quota", "message": "pay", "status": 429}}, LMRefusedError, 429),
    ({"error": {"code": "model_not_found", "message": "who?"}}, LMRefusedError, 404),
    ({"error": {"code": "context_length_exceeded", "message": "long", "status": 400}}, LMRefusedError, 400),
    ({"error": {"type": "invalid_request_error", "message": "what?"}}, LMRefusedError, 400),
    ({"object": "error", "message": "what?", "code": 422}, LMRefusedError, 422),
    (chunk(None, "error", error={"code": 502, "message": "upstream"}), LMUnavailableError, 502),
]


@pytest.mark.parametrize("where", ["first event", "event: error", "later event", "whole for a stream", "whole"])
def test_an_error_of_status_200_is_what_its_code_says(play: Stage, where: str) -> None:
    begun = event(chunk("[[ ## answer ## ]]\nhalf of"))
    prefix = {"first event": "", "event: error": "event: error\n", "later event": begun}
    sent = []
    for reported, kind, status in CODES:
        question = fresh("q")
        reply = Reply(prefix[where] + event(reported), content_type=SSE) if where in prefix else Reply(reported)
        handle = ask(play, question, reply, stream=where != "whole")
        sent.append((question, handle, reported, kind, status))
    for question, handle, reported, kind, status in sent:
        failed = end(handle)
        assert type(failed) is kind, (reported, failed)
        assert failed.status == status, (reported, failed)
        assert failed.profile == "odd"
        assert len(play.requests_with(question)) == (TRIES if kind is LMUnavailableError else 1), reported


FIRST = [
    *(Reply(event(reported), content_type=SSE) for reported, kind, _ in CODES if kind is LMUnavailableError),
    Reply("", content_type=SSE),
    Reply("data: [DONE]\n\n", content_type=SSE),
    Reply(": keep-alive\n\n", content_type=SSE),
    Reply(event(chunk("[[ ## answer ## ]]\nhalf of")), content_type=SSE),
    Reply(event(chunk("[[ ## answer ## ]]\nhalf of")), content_type=SSE, cut=40),
    Reply(event("no JSON"), content_type=SSE),
    Reply("error: {\"code\": 503, \"message\": \"Loading model\"}\n\n", content_type=SSE),
    Reply("<html>Bad gateway</html>", content_type="text/html"),
    Reply("{}"), Reply("[]"), Reply("null"), Reply("7"), Reply(whole("x"), cut=30), Reply({"choices": "none"}),
    Reply("[" * 5_000), Reply({"status": "ok"}), Reply("", status=503), Reply("<html>", status=502),
    Reply("", status=529), Reply("slow", status=429), Reply("", status=408), Reply("", status=504),
]  # fmt: skip


@pytest.mark.parametrize("stream", [True, False])
def test_what_passes_is_tried_again_and_the_next_answer_is_the_answer(play: Stage, stream: bool) -> None:
    sent = []
    for reply in FIRST:
        question = fresh("q")
        once = Reply(reply.body, reply.status, reply.content_type, reply.cut, always=False)
        sent.append((question, ask(play, question, once, stream=stream), reply))
    for question, handle, reply in sent:
        assert end(handle) == f"answer of {question}.", reply
        assert len(play.requests_with(question)) == 2, reply


def test_an_answer_that_comes_whole_to_a_stream_is_the_answer(play: Stage) -> None:
    text = "[[ ## answer ## ]]\nhere it is\n\n[[ ## completed ## ]]"
    odd_usage = {"usage": {"prompt_tokens": "many", "completion_tokens": -1, "total_tokens": None}}
    replies = [Reply(whole(text)), Reply(whole(text), content_type=SSE), Reply(whole(text, **odd_usage))]
    handles = [(ask(play, fresh("q"), reply, stream=True), reply) for reply in replies]
    for handle, reply in handles:
        assert end(handle) == "here it is", reply


# ---------------------------------------------------------------- anything at all

WORDS = ["error", "choices", "message", "content", "delta", "code", "type", "usage", "finish_reason", "detail", "x"]


def value(dice: random.Random, depth: int = 0) -> Any:
    kind = dice.randrange(9 if depth < 3 else 6)
    if kind == 6:
        return [value(dice, depth + 1) for _ in range(dice.randrange(3))]
    if kind > 6:
        return {dice.choice(WORDS): value(dice, depth + 1) for _ in range(dice.randrange(4))}
    return dice.choice([None, True, dice.choice([0, 200, 400, 429, 503, -1, 2**70]), 0.5, dice.choice(WORDS), "\ud83d"])


def body(dice: random.Random) -> str:
    text = "".join(dice.choice(["[[ ## answer ## ]]\n", "so", " ", "\ud83d", "\ude00", "{", "é"]) for _ in range(6))
    events = [
        lambda: event(chunk(text)),
        lambda: event(chunk(None, dice.choice(["stop", "length", "content_filter", "error", "odd", ""]))),
        lambda: event(value(dice)),
        lambda: event(chunk(text, usage=value(dice))),
        lambda: "event: " + dice.choice(["error", "ping", ""]) + "\n",
        lambda: dice.choice([": ping\n\n", "data:\n\n", "data: [DONE]\n\n", "data: {\n\n", "\r\n", "id: 1\n"]),
    ]
    if dice.random() < 0.5:
        return "".join(dice.choice(events)() for _ in range(dice.randrange(7)))
    wholes = [whole(text), whole(value(dice)), whole(text, usage=value(dice)), value(dice), whole(text, value(dice))]
    return json.dumps(dice.choice(wholes))


def reply_of(seed: int) -> Reply:
    dice = random.Random(seed)
    text = body(dice)
    status = dice.choice([200] * 6 + [201, 204, 302, 400, 404, 418, 429, 500, 503, 599])
    cut = dice.randrange(len(text) + 1) if dice.random() < 0.4 else None
    kind = dice.choice([SSE, SSE, PLAIN, PLAIN, "text/html", "application/x-ndjson", ""])
    return Reply(text, status, kind, cut)


def run(play: Stage, seeds: range) -> None:
    sent = []
    for seed in seeds:
        question = fresh("q")
        sent.append((seed, question, ask(play, question, reply_of(seed), stream=seed % 2 == 0)))
    for seed, question, handle in sent:
        result = end(handle)
        shown = f"seed {seed}: {reply_of(seed)} ended in {result!r}"
        assert isinstance(result, (str, LMError)), shown
        # Once in each form, and each so many times.
        assert len(play.requests_with(question)) <= 2 * TRIES, shown
        if isinstance(result, LMError):
            assert "Traceback" not in str(result), shown
            assert "\n" not in str(result), shown
            assert isinstance(result, (LMUnavailableError, LMRefusedError, LMAnswerError)), shown
        else:
            result.encode()


def test_no_reply_ends_in_anything_else_than_a_result_or_a_named_error(play: Stage) -> None:
    run(play, range(CASES))
    # The worker has outlived all of them.
    question = fresh("q")
    assert play.fleet.submit("odd", {"question": question}).get(PATIENCE_S).answer == f"answer of {question}"


@pytest.mark.soak
def test_no_reply_of_many_thousands_does_either(play: Stage) -> None:
    first = random.SystemRandom().randrange(10**9)
    for start in range(first, first + 5_000, 250):
        run(play, range(start, start + 250))
