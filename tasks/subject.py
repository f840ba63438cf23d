"""What is known of the prediction whose code runs: what metrics are labelled with, and the log's lines show."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from snakepit_bridge.client.message_encoder import EncodedMessage
from snakepit_bridge.datasets.recorders import Recorder
from snakepit_bridge.lm.captured_calls import CallCapture
from snakepit_bridge.protocol.provenance import Provenance
from snakepit_bridge.rollouts.records import ArmAssignment
from snakepit_bridge.telemetry import TELEMETRY
from tasks.journal.journal import CallJournal

UNKNOWN = "unknown"
"""The program of a prediction that ended before its program was found."""


@dataclass(frozen=True, slots=True)
class PendingRecord:
    """A record that the commit of a prediction's end adds, if it is this end.

    Attributes:
        state: Celery's state of the end.
        recorder: what covers the prediction.
        record: the record.
    """

    state: str
    recorder: Recorder
    record: bytes


@dataclass(slots=True)
class Subject:
    """A delivery of a prediction, or of a batch. What it is bound to is filled in once it is known.

    Attributes:
        task_id: its own, or that of a batch's message.
        reference: of the program, as submitted, and ``requested_session`` the session.
        sent_at: Unix seconds by the client's clock; 0 if unknown.
        started_at: when this delivery started, by the performance counter; 0 if it wasn't processed.
        program, version, session, token: what it is bound to.
        arms: the arms of rollouts and experiments that it is assigned to.
        provenance: of its result.
        messages: messages that the commit of its result enqueues.
        record: what its end is recorded as, if it is to be.
        journal: what its calls were answered; None if it keeps no journal.
        capture: its LM calls, which the commit of its end keeps; None if they aren't captured.
        is_prediction: whether it is one, or a batch; a job isn't, and sends predictions that are counted themselves.
    """

    task_id: str = ""
    reference: str = ""
    requested_session: str = ""
    sent_at: float = 0.0
    started_at: float = 0.0
    program: str = UNKNOWN
    session: str = ""
    token: str = ""
    version: int = 0
    arms: tuple[ArmAssignment, ...] = ()
    provenance: Provenance | None = None
    messages: tuple[EncodedMessage, ...] = ()
    record: PendingRecord | None = None
    journal: CallJournal | None = None
    capture: CallCapture | None = None
    is_prediction: bool = True

    @property
    def best_program(self) -> str:
        """The program that it is bound to, or else the reference that was submitted."""
        return self.reference if self.program == UNKNOWN else self.program


current_subject: ContextVar[Subject | None] = ContextVar("dspex_subject", default=None)


@contextmanager
def assume_arms(task_id: str, arms: tuple[ArmAssignment, ...]) -> Generator[None]:
    """Within the block, what ends as this prediction is counted for these arms, unless it is the running one."""
    subject = current_subject.get()
    if subject is not None and subject.task_id == task_id:
        yield
        return
    token = current_subject.set(Subject(task_id, arms=arms))
    try:
        yield
    finally:
        current_subject.reset(token)


def log_fields() -> Mapping[str, str]:
    """Return what a line of the log tells of the running prediction, or batch; empty outside of one."""
    subject, ids = current_subject.get(), TELEMETRY.tracer.current_ids()
    fields = {} if ids is None else {"trace_id": ids[0], "span_id": ids[1]}
    if subject is None:
        return fields
    session = subject.session or subject.requested_session
    known = {"task_id": subject.task_id, "session": session, "token": subject.token, "program": subject.best_program}
    return {**known, **fields}
