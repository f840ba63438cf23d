"""The job: versions are published as answers come in, and each question requires what was acknowledged before it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from snakepit_bridge.exceptions import PredictionTimeoutError, StoreUnavailableError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.session_context import SessionContext
from snakepit_bridge.snapshots import MemoryStore
from tests.harness.waiting import PATIENCE_S, wait_until
from tests.unit.workers.dev.demo.sample import answer, revisions
from workers.dev.demo.job import DemoPublisher, Revision, ask_all
from workers.dev.demo.pace import AskingRate
from workers.dev.demo.script import DECLARED, PUBLISHES, Question

DECLARED_VALUES = {name: value for name, _, value, _ in DECLARED}


def published(store: MemoryStore, every: int = 1) -> tuple[DemoPublisher, list[Revision]]:
    announced: list[Revision] = []
    return DemoPublisher(SessionContext("demo", store, author="me"), every, announced.append), announced


def history(store: MemoryStore) -> list[Token]:
    return sorted(revision.token for revision in run_blocking(store.history("demo")))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


# ---------------------------------------------------------------- the publisher


def test_the_first_revision_has_all_that_is_declared_and_is_there_at_once(store: MemoryStore) -> None:
    publisher, published_revisions = published(store)
    publisher.start()
    publisher.stop()
    (first,) = published_revisions
    assert first.values == first.changed == DECLARED_VALUES
    assert publisher.acknowledged == first.token == history(store)[-1]


def test_a_version_is_published_after_every_so_many_answers(store: MemoryStore) -> None:
    publisher, published_revisions = published(store, every=3)
    publisher.start()
    for _ in range(2):
        publisher.count_answer()
    assert len(published_revisions) == 1
    publisher.count_answer()
    wait_until(lambda: len(published_revisions) == 2, "the first version")
    assert published_revisions[1].changed == PUBLISHES[0]
    assert published_revisions[1].values == {**DECLARED_VALUES, **PUBLISHES[0]}
    publisher.stop()
    assert len(published_revisions) == 2


def test_what_is_due_is_published_even_if_all_answers_came_at_once(store: MemoryStore) -> None:
    publisher, published_revisions = published(store, every=2)
    publisher.start()
    for _ in range(2 * len(PUBLISHES)):
        publisher.count_answer()
    publisher.stop()
    assert [revision.changed for revision in published_revisions[1:]] == list(PUBLISHES)
    assert publisher.revisions == published_revisions


def test_each_told_revision_is_what_the_store_holds(store: MemoryStore) -> None:
    publisher, published_revisions = published(store)
    publisher.start()
    for _ in PUBLISHES:
        publisher.count_answer()
    publisher.stop()
    assert [revision.token for revision in published_revisions] == sorted(
        revision.token for revision in published_revisions
    )
    for revision in published_revisions:
        snapshot = run_blocking(store.read_at("demo", revision.token))
        assert {name: variable.value for name, variable in snapshot.variables.items()} == revision.values
    # All that a publish changes, it changes in one revision.
    assert history(store)[-len(PUBLISHES) :] == [revision.token for revision in published_revisions[1:]]


def test_a_publish_that_failed_is_raised_when_the_publisher_is_stopped(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, published_revisions = published(store)
    publisher.start()

    async def unavailable(*_: Any, **__: Any) -> Token:
        raise StoreUnavailableError("redis://h", "it went away")

    monkeypatch.setattr(store, "publish", unavailable)
    publisher.count_answer()
    with pytest.raises(StoreUnavailableError):
        publisher.stop()
    assert len(published_revisions) == 1, "what was not acknowledged is told to nobody"


# ---------------------------------------------------------------- the questions


class OneFleet:
    """Answers each question when it is told to, or as soon as it is asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.refuses: set[str] = set()
        self.most, self._now, self._lock = 0, 0, threading.Lock()

    def submit(
        self, program: str, inputs: Mapping[str, Any], *, session: str, at_least: Token, deadline: float
    ) -> OneHandle:
        with self._lock:
            self.asked.append({"program": program, "inputs": inputs, "session": session, "at_least": at_least})
            self._now += 1
            self.most = max(self.most, self._now)
        return OneHandle(self, inputs["text"])

    def done(self) -> None:
        with self._lock:
            self._now -= 1


class OneHandle:
    def __init__(self, fleet: OneFleet, text: str) -> None:
        self._fleet, self._text = fleet, text

    def get(self, timeout: float) -> Any:
        assert self._fleet.go_on.wait(PATIENCE_S)
        self._fleet.done()
        if self._text in self._fleet.refuses:
            raise PredictionTimeoutError("task", timeout)
        return answer("classify", revisions()[0]).prediction


def questions(count: int) -> list[Question]:
    return [Question(str(n), "classify", {"text": f"text {n}"}, {}) for n in range(count)]


def test_every_question_is_asked_once_and_answered_in_its_place(store: MemoryStore) -> None:
    fleet: Any = OneFleet()
    publisher, _ = published(store, every=5)
    publisher.start()
    done: list[None] = []
    answers = ask_all(fleet, "demo", questions(40), publisher, lambda: done.append(None), AskingRate())
    publisher.stop()
    assert [answer.question.id for answer in answers] == [str(n) for n in range(40)]
    assert sorted(answer["inputs"]["text"] for answer in fleet.asked) == sorted(f"text {n}" for n in range(40))
    assert all(answer.prediction is not None and answer.error is None and answer.seconds >= 0 for answer in answers)
    assert len(done) == 40


def test_each_question_requires_what_was_acknowledged_before_it(store: MemoryStore) -> None:
    fleet: Any = OneFleet()
    publisher, published_revisions = published(store, every=5)
    publisher.start()
    answers = ask_all(fleet, "demo", questions(40), publisher, lambda: None, AskingRate())
    # The answers come at once, so the publisher may be behind them.
    wait_until(lambda: publisher.acknowledged > published_revisions[0].token, "a version after the first")
    answers += ask_all(fleet, "demo", questions(41)[40:], publisher, lambda: None, AskingRate())
    publisher.stop()
    required = {request["inputs"]["text"]: request["at_least"] for request in fleet.asked}
    assert [required[answer.question.text] for answer in answers] == [answer.acknowledged for answer in answers]
    assert {answer.acknowledged for answer in answers} <= {revision.token for revision in published_revisions}
    assert {request["session"] for request in fleet.asked} == {"demo"}
    assert answers[-1].acknowledged > published_revisions[0].token, "a newer one is required from then on"


def test_a_question_without_a_result_keeps_its_error(store: MemoryStore) -> None:
    fleet: Any = OneFleet()
    fleet.refuses = {"text 1"}
    publisher, _ = published(store)
    publisher.start()
    first, second, third = ask_all(fleet, "demo", questions(3), publisher, lambda: None, AskingRate())
    publisher.stop()
    assert second.prediction is None
    assert isinstance(second.error, PredictionTimeoutError)
    assert (first.error, third.error) == (None, None)


def test_only_some_questions_are_under_way_at_a_time(store: MemoryStore) -> None:
    fleet: Any = OneFleet()
    fleet.go_on.clear()
    publisher, _ = published(store)
    publisher.start()
    asking = threading.Thread(
        target=ask_all, args=(fleet, "demo", questions(60), publisher, lambda: None, AskingRate()), daemon=True
    )
    asking.start()
    wait_until(lambda: fleet.most >= 16, "the first questions")
    fleet.go_on.set()
    asking.join(PATIENCE_S)
    publisher.stop()
    # Fewer than there are, so that the later ones require later versions.
    assert len(fleet.asked) == 60
    assert fleet.most == 16


def test_ctrl_c_waits_for_no_answer_even_as_a_thread_starts(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that was started then is in no pool's list: Python would wait for its answer at the end."""
    fleet: Any = OneFleet()
    fleet.go_on.clear()
    publisher, _ = published(store)
    publisher.start()
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        started.append(thread)
        if len(started) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            ask_all(fleet, "demo", questions(20), publisher, lambda: None, AskingRate())
        assert [thread.daemon for thread in started] == [True] * 3
    finally:
        fleet.go_on.set()
        publisher.stop()
