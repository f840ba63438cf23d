"""Recording: a share of the finished predictions is kept, as their programs' recorders say.

The script that commits a prediction's end adds the record to its program's stream. So each is recorded once, whatever
becomes of its worker: the commit that is first adds it, and no other does. What no recorder covers costs no round trip.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from typing import Any

from celery.states import FAILURE, SUCCESS

from snakepit_bridge.datasets.recorded import MAX_RECORD_BYTES, RecordedPrediction, record_arguments
from snakepit_bridge.datasets.recorders import RECORDERS_SESSION, Recorder, read_recorders
from snakepit_bridge.delivery.payloads import Payloads, is_reference
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.programs.registry import UNREGISTERED
from snakepit_bridge.protocol.json_values import ValueBounds
from snakepit_bridge.protocol.messages import PredictionRequest, Result
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.outages import retry_through_outages
from snakepit_bridge.snapshots import SnapshotStore
from snakepit_bridge.snapshots.snapshot import Snapshot
from tasks.followed_session import FollowedSession
from tasks.requests import fetch_payloads, select_inputs
from tasks.subject import UNKNOWN, PendingRecord, Subject, current_subject

# Inputs that were too large for a message and may be recorded without what makes them large.
_MAX_PAYLOAD_BYTES = 4 * 1024 * 1024

_log = logging.getLogger(__name__)


class Recording:
    """The recorders of a process's predictions. Lives on the home loop.

    Args:
        store: the sessions, one of which has the recorders.
        payloads: inputs that were too large for a message.
        bounds: of an input.
    """

    def __init__(self, store: SnapshotStore, payloads: Payloads, bounds: ValueBounds) -> None:
        self._payloads = payloads
        self._bounds = bounds
        self._recorders = FollowedSession[Mapping[str, Recorder]](
            store, RECORDERS_SESSION, self._parse, {}, what="recorders"
        )
        self._logged: dict[str, str] = {}

    async def record(self, task_id: str, request: PredictionRequest, result: Result) -> None:
        """Have the commit of a prediction's result record it, if a recorder covers it.

        Whatever goes wrong costs the prediction its record, and nothing else.

        Args:
            task_id: the prediction.
            request: its request.
            result: its result.
        """
        if request.evaluation or result.provenance.get("version") == UNREGISTERED:
            return  # a measurement, or a variant: whoever sent it has its inputs
        recorder = await self._find(str(result.provenance.get("program")), task_id)
        if recorder is not None:
            await self._prepare(recorder, SUCCESS, self._from_result(task_id, result))

    async def record_error(self, task_id: str, request: PredictionRequest, error: BridgeError) -> None:
        """Have the commit of a prediction's error record it, if a recorder covers it and its inputs can be read.

        Args:
            task_id: the prediction.
            request: its request.
            error: what it fails with.
        """
        subject = current_subject.get()
        if subject is None or subject.task_id != task_id or request.evaluation or _is_variant(subject):
            return
        recorder = await self._find(_name_program(request, subject), task_id)
        if recorder is not None and recorder.errors:
            await self._prepare(recorder, FAILURE, self._from_error(task_id, request, subject, error))

    async def aclose(self) -> None:
        """Stop following the recorders."""
        await self._recorders.aclose()

    async def _find(self, program: str, task_id: str) -> Recorder | None:
        recorder = (await self._recorders.read()).get(program)
        return recorder if recorder is not None and recorder.covers(task_id) else None

    async def _prepare(self, recorder: Recorder, state: str, build: Awaitable[RecordedPrediction]) -> None:
        """Leave a record to the commit of the current prediction's end."""
        try:
            found = await build
            inputs, outputs = recorder.redact("inputs", found.inputs), recorder.redact("outputs", found.outputs)
            record = replace(found, inputs=inputs, outputs=outputs).encode(self._payloads.cipher)
        except (BridgeError, ValueError, TypeError) as exc:
            self._warn(recorder, f"it can't be read or encoded: {exc}")
            return
        if len(record) > MAX_RECORD_BYTES:
            problem = f"it has {len(record)} bytes, and {MAX_RECORD_BYTES} is the most; drop its large fields"
            self._warn(recorder, problem)
            return
        if (subject := current_subject.get()) is not None:
            subject.record = PendingRecord(state, recorder, record)

    async def _from_result(self, task_id: str, result: Result) -> RecordedPrediction:
        known: Mapping[str, Any] = result.provenance
        inputs: Any = result.inputs
        if is_reference(inputs):
            inputs = await self._load(inputs)
        return RecordedPrediction(
            task_id,
            known["program"],
            known["version"],
            known["session"],
            known["token"],
            inputs,
            result.outputs,
            model=known["model"],
            arms=known["arms"],
        )

    async def _from_error(
        self, task_id: str, request: PredictionRequest, subject: Subject, error: BridgeError
    ) -> RecordedPrediction:
        if is_reference(request.inputs):
            request = replace(request, inputs=await self._load(request.inputs))
        else:
            request = await fetch_payloads(self._payloads, request)
        inputs = select_inputs(request, self._bounds)
        session = subject.session or request.session
        program, arms = _name_program(request, subject), [arm.encode() for arm in subject.arms]
        return RecordedPrediction(
            task_id, program, subject.version, session, subject.token, inputs, {}, type(error).__name__, arms=arms
        )

    async def _load(self, reference: str) -> Any:
        """Return the inputs of a reference.

        Raises:
            BridgeError: they are gone, or too large to be recorded.
        """
        if (size := int(reference.rpartition(":")[2])) > _MAX_PAYLOAD_BYTES:
            raise BridgeError(f"its inputs have {size} bytes, and {_MAX_PAYLOAD_BYTES} is the most")
        return await retry_through_outages(lambda: self._payloads.get(reference))

    def _parse(self, snapshot: Snapshot) -> Mapping[str, Recorder]:
        recorders, errors = read_recorders(snapshot)
        for error in errors:
            self._log_once(error.program, str(error))
        return {recorder.program: recorder for recorder in recorders}

    def _warn(self, recorder: Recorder, problem: str) -> None:
        self._log_once(recorder.program, f"A prediction of '{recorder.program}' isn't recorded: {problem}.")

    def _log_once(self, program: str, text: str) -> None:
        """Log a warning, unless it is the one that was logged last about this program."""
        if self._logged.get(program) != text:
            self._logged[program] = text
            _log.warning("%s", text)


def _name_program(request: PredictionRequest, subject: Subject) -> str:
    """Return the name of a prediction's program, also of one that failed before the program was known."""
    return re.split("[:@]", request.program)[0] if subject.program == UNKNOWN else subject.program


def _is_variant(subject: Subject) -> bool:
    """Return whether a prediction runs a program that isn't registered."""
    return subject.program != UNKNOWN and subject.version == UNREGISTERED


def commit_arguments(keys: FleetKeys, task_id: str, state: str, *, first_key: int) -> tuple[list[str], list[Any]]:
    """Return the keys and arguments by which the commit of a prediction's end records it, if it is to be.

    Args:
        keys: the fleet's.
        task_id: the prediction.
        state: Celery's state of the end.
        first_key: the index of the first of these keys among those of the script, from 1.
    """
    subject = current_subject.get()
    pending = None if subject is None or subject.task_id != task_id else subject.record
    if pending is None or pending.state != state:
        return [], [0]
    recorder = pending.recorder
    return record_arguments(
        keys,
        recorder.program,
        task_id,
        pending.record,
        max_records=recorder.max_records,
        expires_s=recorder.expires_s,
        first_key=first_key,
    )
