"""The demo's job: ask every question through the fleet while a publisher changes the variables under it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snakepit_bridge.client import Fleet, Handle
from snakepit_bridge.client.fleet_prediction import FleetPrediction
from snakepit_bridge.exceptions import BridgeError, PredictionTimeoutError
from snakepit_bridge.process.threads import UserThreads
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.session_context import SessionContext
from snakepit_bridge.snapshots import SnapshotStore
from workers.dev.demo.pace import AskingRate
from workers.dev.demo.script import DECLARED, PUBLISHES, Question

# Past its deadline a prediction ends by itself, as soon as its worker has seen that.
_GRACE_S = 30.0


@dataclass(frozen=True, slots=True)
class Revision:
    """One acknowledged publish: its token, what changed, and all values from then on."""

    token: Token
    changed: Mapping[str, Any]
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """How one question ended.

    Attributes:
        acknowledged: the newest token whose publish had returned before the question was submitted.
        prediction: None if it ended in an error, or had no end at all; then ``error`` says which.
        seconds: from submitting to the end.
    """

    question: Question
    acknowledged: Token
    prediction: FleetPrediction | None
    error: BridgeError | None
    seconds: float

    @property
    def lost(self) -> bool:
        """Whether nobody ever said how it ended."""
        return isinstance(self.error, PredictionTimeoutError)

    @property
    def failed(self) -> bool:
        """Whether it ended in an error that names its cause, such as an answer that can't be parsed."""
        return self.error is not None and not self.lost


class DemoPublisher:
    """The Elixir side's stand-in: declares the session's variables, then publishes versions as the work goes on.

    Args:
        context: the session, in the store that owns it.
        every: after how many answers the next version is published.
        told: called with each revision once its publish has returned.
    """

    def __init__(self, context: SessionContext, every: int, announce: Callable[[Revision], None]) -> None:
        self._context = context
        self._every = every
        self._told = announce
        self._answered = 0
        self._moved = threading.Condition()
        self._stopped = False
        self.revisions: list[Revision] = []
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    @property
    def acknowledged(self) -> Token:
        """The token of the last publish that has returned."""
        return self.revisions[-1].token

    def start(self) -> None:
        """Declare the variables and begins to publish."""
        for name, kind, value, constraints in DECLARED:
            self._context.blocking.register_variable(name, kind, value, constraints)
        snapshot = self._context.blocking.snapshot()
        values = {name: variable.value for name, variable in snapshot.variables.items()}
        self._acknowledge(Revision(snapshot.token, values, values))
        self._thread.start()

    def count_answer(self) -> None:
        """Count one more answer."""
        with self._moved:
            self._answered += 1
            self._moved.notify_all()

    def stop(self) -> None:
        """End publishing.

        Raises:
            BridgeError: a publish had failed.
        """
        with self._moved:
            self._stopped = True
            self._moved.notify_all()
        self._thread.join()
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        try:
            for number, changes in enumerate(PUBLISHES, start=1):
                with self._moved:
                    self._moved.wait_for(lambda due=number * self._every: self._stopped or self._answered >= due)
                    # What is due is published even if the last answers came all at once.
                    if self._answered < number * self._every:
                        return
                token = self._context.blocking.set_variables(changes, reason="demo")
                self._acknowledge(Revision(token, changes, {**self.revisions[-1].values, **changes}))
        except BaseException as failed:  # noqa: BLE001  (raised by stop, in the thread that can act on it)
            self._failed = failed

    def _acknowledge(self, revision: Revision) -> None:
        self.revisions.append(revision)
        self._told(revision)


async def all_revisions(
    store: SnapshotStore, session: str, acknowledged: Sequence[Revision], answers: Sequence[Answer]
) -> list[Revision]:
    """Return the revisions that were published or that a prediction ran under, oldest first.

    A refresher may see Elixir between two of the changes that a publish consists of, which is a revision of its own.
    """
    known = {revision.token: revision for revision in acknowledged}
    seen = {Token.parse(answer.prediction.provenance.token) for answer in answers if answer.prediction is not None}
    for token in seen - known.keys():
        snapshot = await store.read_at(session, token)
        known[token] = Revision(token, {}, {name: variable.value for name, variable in snapshot.variables.items()})
    return [known[token] for token in sorted(known)]


def ask_all(
    fleet: Fleet,
    session: str,
    questions: list[Question],
    publisher: DemoPublisher,
    done: Callable[[], None],
    pace: AskingRate,
) -> list[Answer]:
    """Submit every question, a few at a time, and return how each ended, in their order.

    Ctrl-C isn't delayed by answers that are still to come: the threads that wait for them end with the process.
    """

    def ask(question: Question) -> Answer:
        acknowledged, start = publisher.acknowledged, time.monotonic()
        handle = fleet.submit(
            question.program, question.inputs, session=session, at_least=acknowledged, deadline=pace.wait_s
        )
        prediction, error = _wait(handle, pace.wait_s + _GRACE_S)
        answer = Answer(question, acknowledged, prediction, error, time.monotonic() - start)
        publisher.count_answer()
        done()
        return answer

    return list(UserThreads(pace.in_flight).map(ask, questions))


def _wait(handle: Handle, wait_s: float) -> tuple[FleetPrediction | None, BridgeError | None]:
    try:
        return handle.get(wait_s), None
    except BridgeError as exc:
        return None, exc
