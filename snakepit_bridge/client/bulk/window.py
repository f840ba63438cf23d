"""BulkWindow: the lines of a bulk run that are in flight, sent as batches and collected as they end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from snakepit_bridge.client.bulk.records import BulkRecord
from snakepit_bridge.client.bulk.source import BulkLine
from snakepit_bridge.client.result_collector import EndedTask, ForgettableTask, ResultCollector
from snakepit_bridge.exceptions import InputError, StoreUnavailableError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.redis.outages import retry_through_outages

if TYPE_CHECKING:
    from snakepit_bridge.client.handle import Handle
    from snakepit_bridge.client.prediction_client import PredictionClient

# How long to wait for a restarting Redis before the run stops; what is finished stays written.
_PATIENCE_S = 30.0

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Message:
    """What was sent together. Its results are forgotten together, since it is delivered again as a whole."""

    open: int
    ended: list[ForgettableTask] = field(default_factory=list[ForgettableTask])


@dataclass(frozen=True, slots=True)
class _OpenLine:
    identity: Mapping[str, Any]
    key: str
    message: _Message
    # One that an earlier process sent travels in a message of which this process doesn't know the rest.
    is_forgettable: bool


@dataclass(frozen=True, slots=True)
class KeyPrefix:
    """What the idempotency keys of a run's lines begin with: the run, and how often failed lines were tried again."""

    run_id: str
    round: int

    def key(self, line: int) -> str:
        """Return the key of a line."""
        return f"bulk:{self.run_id}:{self.round}:{line}"


class BulkWindow:
    """The lines in flight.

    Args:
        client: sends the predictions.
        program: reference of the program.
        options: what ``Fleet.submit`` takes besides.
        keys: of the lines.
        keep_results: whether results stay in Redis once they are written.
    """

    def __init__(
        self,
        client: PredictionClient,
        program: str,
        options: Mapping[str, Any],
        keys: KeyPrefix,
        *,
        keep_results: bool = False,
    ) -> None:
        self._client = client
        self._program = program
        self._options = options
        self._keys = keys
        self._keep_results = keep_results
        self._open: dict[str, _OpenLine] = {}
        self._written: list[ForgettableTask] = []
        self._complete: list[_Message] = []
        self._collector = ResultCollector(client.results, client.payloads)

    def __len__(self) -> int:
        return len(self._open)

    @property
    def first_open(self) -> int | None:
        """The first line that is in flight; None if there is none."""
        return next((each.identity["line"] for each in self._open.values()), None)

    def send(self, lines: Sequence[BulkLine]) -> list[BulkRecord]:
        """Send lines in one message and return the records of those that can't be sent.

        A line that an earlier process of this run has sent isn't sent again.

        Raises:
            StoreUnavailableError: Redis stayed away; the run can be resumed.
        """
        run_blocking(self._collector.prepare())
        try:
            self._watch(lines, self._submit(lines))
        except InputError as exc:
            if len(lines) == 1:
                return [BulkRecord.of_error(lines[0].identity, exc)]
            return [record for line in lines for record in self.send([line])]  # only some are at fault
        return []

    def collect(self, wait_s: float) -> list[tuple[Mapping[str, Any], EndedTask]]:
        """Return the lines that have ended, as soon as there is one; none after ``wait_s`` seconds."""
        found: list[tuple[Mapping[str, Any], EndedTask]] = []
        for ended in run_blocking(self._collector.collect(wait_s)):
            line = self._open.pop(ended.task_id)
            line.message.open -= 1
            if line.is_forgettable:
                line.message.ended.append(ForgettableTask(ended.task_id, line.key, ended.payload))
            if not line.message.open:
                self._complete.append(line.message)
            found.append((line.identity, ended))
        return found

    def forget_written(self) -> None:
        """Forget the results of messages all of whose lines have ended. Call it once these are durable."""
        if self._keep_results:
            self._complete.clear()
            return
        self._written += [task for message in self._complete for task in message.ended]
        self._complete.clear()
        try:
            run_blocking(self._collector.forget(self._written))
        except StoreUnavailableError as exc:
            _log.warning("Results that are written already stay in Redis for now: %s", exc)
        else:
            self._written.clear()

    def close(self) -> None:
        """End the subscription. What is in flight goes on, and a later run finds it."""
        run_blocking(self._collector.aclose())

    def _submit(self, lines: Sequence[BulkLine]) -> list[Handle]:
        keys = [self._keys.key(line.number) for line in lines]
        inputs = [line.inputs or {} for line in lines]

        def submit() -> list[Handle]:
            if len(lines) == 1:
                return [self._client.submit(self._program, inputs[0], idempotency_key=keys[0], **self._options)]
            return self._client.submit_batch(self._program, inputs, idempotency_keys=keys, **self._options)

        # In a thread: submitting blocks.
        return run_blocking(retry_through_outages(lambda: asyncio.to_thread(submit), patience_s=_PATIENCE_S))

    def _watch(self, lines: Sequence[BulkLine], handles: Sequence[Handle]) -> None:
        message, own = _Message(len(lines)), self._client.results.reply_channel
        for line, handle in zip(lines, handles, strict=True):
            is_new = handle.reply_channel == own
            self._open[handle.id] = _OpenLine(line.identity, self._keys.key(line.number), message, is_new)
        run_blocking(self._collector.watch(handles))
