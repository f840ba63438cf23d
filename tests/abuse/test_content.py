"""What people ask and are answered stands in no header, event, log or remote-control answer.

Texts that occur nowhere else are sent by every way, through success, failure and another try, with events on and the
worker's log at its most talkative; then everything that the fleet shows of itself is searched for them.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Generator
from typing import Any

import dspy
import pytest
from celery import Celery, chain, group
from celery.events import EventReceiver
from redis import Redis

from snakepit_bridge.client import Handle
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.protocol.messages import PREDICT, VERSION
from tests.harness import talkative
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, wait_until

# What these programs leave behind on purpose, a thread's error and warnings, they leave in this process
# as well: registering a program runs it.
pytestmark = [
    pytest.mark.filterwarnings("ignore:asked text for question"),
    pytest.mark.filterwarnings(
        r"ignore:Exception in thread .*\(fail_here\):pytest.PytestUnhandledThreadExceptionWarning"
    ),
]

CANARY = "canaryquestion"
ANSWER = f"answer of {CANARY}"
UNPARSABLE = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "demo",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": f"nothing but {CANARY}"}}
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
TALKATIVE = ("--without-mingle", "--without-gossip", "-E", "--loglevel", "DEBUG")


class Clumsy(dspy.Module):
    """Fails with what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> Any:
        raise LookupError(f"nothing is known of {question}")


@pytest.fixture(
    scope="module",
    params=["asyncio", *(pytest.param(pool, marks=pytest.mark.soak) for pool in ("threads", "prefork"))],
)
def play(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    with stage(folder, worker=False, DSPEX_ALLOWED_PACKAGES="tests") as play:
        play.start(pool=request.param, concurrency=4, arguments=TALKATIVE)
        play.fleet.register("qa", dspy.Predict("question -> answer"))
        play.fleet.register("clumsy", Clumsy())
        for kind in talkative.WAYS:
            play.fleet.register(kind.__name__, kind())
        yield play


class Listener:
    """Every event of the fleet's workers."""

    def __init__(self, play: Stage) -> None:
        self.events: list[str] = []
        self._app = play.fleet.app
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._app.connection_for_read() as connection:
            receiver = EventReceiver(connection, app=self._app, handlers={"*": self._heard})
            receiver.capture(limit=None, timeout=PATIENCE_S, wakeup=True)

    def _heard(self, event: dict[str, Any]) -> None:
        self.events.append(json.dumps(event, default=str))


def outcome(handle: Handle) -> str:
    try:
        return str(handle.get(PATIENCE_S))
    except BridgeError as exc:
        return type(exc).__name__


def ask_every_way(play: Stage) -> list[str]:
    """Ask by every way, and return how each ended."""
    fleet, question = play.fleet, f"{CANARY} {fresh('q')}"
    play.lm.fail(1, status=503, retry_after_s=2.2, containing="again")
    play.lm.say(UNPARSABLE, None, containing="unparsable")
    handles = [
        fleet.submit("qa", {"question": question}),
        fleet.submit("qa", {"question": f"{question} keyed"}, idempotency_key=fresh("key")),
        fleet.submit("qa", {"question": f"{question} again"}),
        fleet.submit("qa", {"question": f"{question} streamed"}, stream=True),
        fleet.submit("qa", {"question": f"{question} unparsable"}),
        fleet.submit("clumsy", {"question": question}),
        fleet.submit("qa", {"question": {CANARY: 1}, CANARY: 2}),
        *fleet.submit_batch("qa", [{"question": f"{question} {number}"} for number in range(3)]),
        *fleet.submit_batch("clumsy", [{"question": question}]),
        *fleet.submit_batch("qa", [{CANARY: question}]),
    ]
    first = fleet.signature("qa", {"question": f"{question} chained"})
    then = fleet.signature("qa", take={"question": "answer"})
    sent = [chain(first, then).apply_async(), *group(first.clone(), first.clone()).apply_async().children]
    stock = Celery("stock", broker=play.url, backend=play.url, set_as_current=False)
    sent.append(stock.send_task(PREDICT, [{"question": question}, "qa"], {"v": VERSION}, queue=fleet.queue))
    return [outcome(handle) for handle in (*handles, *(fleet.handle(result.id) for result in sent))]


def test_what_was_asked_and_answered_is_shown_nowhere(play: Stage) -> None:
    listener = Listener(play)
    wait_until(lambda: any("worker-" in event for event in listener.events), "the first event", timeout_s=30)
    ends = ask_every_way(play)
    assert sum(ANSWER in end for end in ends) >= 9, ends
    assert {"LMAnswerError", "PredictionFailedError", "InputError"} <= set(ends)
    wait_until(lambda: sum("task-failed" in event for event in listener.events) >= 2, "the events of failures")
    log = play.worker.logs()
    assert log.count("succeeded") >= 5
    assert "raised expected" in log
    assert "DEBUG" in log
    for where, text in {"events": "\n".join(listener.events), "the log": log}.items():
        found = [line for line in text.splitlines() if CANARY in line]
        assert not found, f"{where} shows what was asked: {found[0][:1000]}"


def test_what_programs_and_dspy_print_and_log_is_not_shown(play: Stage) -> None:
    """Neither by a logger of their own, nor by a failure that nobody caught."""
    question = f"{CANARY} {fresh('said')}"
    sent = [play.fleet.submit(kind.__name__, {"question": question}) for kind in talkative.WAYS]
    ends = [outcome(handle) for handle in sent]
    assert all(ANSWER in end for end in ends), ends
    expected = {
        "Output of tests.harness.talkative is hidden": 1,
        "Output of dspy.predict.best_of_n is hidden": 1,
        "Output of dspy.predict.refine is hidden": 1,
        " a text of the source": 4,
        f"(not shown) has {len(question)} letters": 8,
        "it failed: LookupError": 4,
        "asked (not shown)\n": 1,
        "A thread ended with an exception": 1,
        "An exception couldn't be raised to a caller": 1,
        "RuntimeWarning: (not shown)": 1,
        "ERROR dspy.utils.parallelizer: (not shown)": 1,
    }
    for text, count in expected.items():
        wait_until(lambda text=text, count=count: play.worker.logs().count(text) >= count, f"{text!r} in the log")
    found = [line for line in play.worker.logs().splitlines() if CANARY in line]
    assert not found, f"the log shows what was asked: {found[0][:1000]}"


def test_remote_control_tells_nothing_of_what_runs(play: Stage) -> None:
    question = f"{CANARY} {fresh('held')}"
    play.lm.delay(3)
    running = [play.fleet.submit("qa", {"question": f"{question} {number}"}) for number in range(6)]
    play.await_asked(question, 4)
    inspect = play.fleet.app.control.inspect(timeout=PATIENCE_S, limit=1)
    replies = [inspect.active(), inspect.reserved(), inspect.scheduled(), inspect.query_task(running[0].id)]
    assert running[0].id in json.dumps(replies)
    assert CANARY not in json.dumps(replies)
    assert all(ANSWER in outcome(handle) for handle in running)
    play.lm.delay(0)


def test_a_waiting_message_shows_it_in_its_body_alone(play: Stage) -> None:
    question = f"{CANARY} {fresh('waiting')}"
    with play.held():
        fleet = play.fleet
        handles = [fleet.submit("qa", {"question": question}), *fleet.submit_batch("qa", [{"question": question}])]
        sent = [fleet.signature("qa", {"question": question}).apply_async()]
        with Redis.from_url(play.url) as client:
            waiting: list[Any] = [
                json.loads(raw) for key in client.keys("predictions*") for raw in client.lrange(key, 0, -1)
            ]
    assert len(waiting) == 3
    for message in waiting:
        body = base64.b64decode(message.pop("body")).decode()
        assert question in body
        assert CANARY not in json.dumps(message)
    assert all(ANSWER in outcome(handle) for handle in (*handles, *(play.fleet.handle(result.id) for result in sent)))


def test_one_switch_shows_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings: dict[str, Any] = {"DSPEX_LOG_CONTENT": "true", "DSPEX_ALLOWED_PACKAGES": "tests"}
    with stage(tmp_path_factory.mktemp("stage"), worker=False, **settings) as play:
        play.start(pool="threads", concurrency=2, arguments=TALKATIVE)
        play.fleet.register("qa", dspy.Predict("question -> answer"))
        play.fleet.register("Prints", talkative.Prints())
        assert ANSWER in outcome(play.fleet.submit("qa", {"question": CANARY}))
        wait_until(lambda: CANARY in play.worker.logs(), "the question in the log")
        assert outcome(play.fleet.submit("Prints", {"question": "printedquestion"}))
        wait_until(lambda: "printedquestion" in play.worker.logs(), "what a program prints in the log")
