"""Settling the messages of a process that hangs.

The process can't renew its leases, and once it is killed all its messages would count as lost with it. So the watchdog
renews them meanwhile. Before it kills the process, it dead-letters the prediction in whose code the process hangs, and
requeues everything else as if it had never been delivered.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kombu.connection import Connection

from snakepit_bridge.protocol.messages import REPLY_CHANNEL
from workers.broker import message as envelope
from workers.broker import settlement
from workers.broker.channel import Channel
from workers.broker.scripts import KeeperScripts
from workers.broker.settlement import Settlement
from workers.watchdog.evidence import Culprit

Summary = Mapping[str, Any]
"""The summary of a message; see ``snakepit_bridge.delivery.dead_letters``."""

STALLED = "stalled"
"""The reason on the dead-letter list for a prediction that hangs."""


class ClaimSettlement:
    """Settles the messages of one worker for its watchdog.

    Args:
        connect: returns a connection to the worker's broker.
        store_ends: stores errors for the predictions of messages, given by their summaries.
        holds: whether that broker is used through our transport. Other brokers redeliver a worker's messages once it
            is gone, and the watchdog can only store an error for the prediction at fault, so that it isn't run again.
    """

    def __init__(
        self, connect: Callable[[], Connection], store_ends: Callable[[Sequence[Summary]], object], *, holds: bool
    ) -> None:
        self._connect = connect
        self._store_ends = store_ends
        self._holds = holds
        self._scripts: dict[str, KeeperScripts] = {}
        self._dead: list[Summary] = []

    def renew(self, holdings: list[str]) -> None:
        """Renew the worker's leases in place of its keeper.

        Raises:
            OperationalError, RedisError, OSError: the broker is unreachable.
        """
        for name in holdings if self._holds else ():
            self._scripts_for(name).heartbeat()

    def settle(self, holdings: list[str], who: Culprit | None, error: str, *, give_up: bool) -> None:
        """Requeue the worker's messages: all of them as lost, or all but the culprit's if that is known.

        Args:
            holdings: the worker ids under which the worker holds leases.
            who: the prediction in whose code the worker hangs, if known.
            error: the error text for it.
            give_up: whether it is dead-lettered at once, and not only counted as lost.

        Raises:
            OperationalError, RedisError, OSError: the broker is unreachable.
        """
        if not self._holds:
            if who is not None and give_up:
                self._store_ends([_summarize_end({"task_id": who.prediction}, error)])
            return
        with self._ends_stored():
            for name in holdings:
                scripts = self._scripts_for(name)
                for records in scripts.iter_records(name):
                    ends = [self._settle_record(*record, who, error, give_up=give_up) for record in records]
                    self._settle(scripts, ends)
                    if who is None:
                        scripts.count_expired(len(records))

    def requeue_all(self, holdings: list[str]) -> None:
        """Requeue all messages of the worker as if they had never been delivered.

        Raises:
            OperationalError, RedisError, OSError: the broker is unreachable.
        """
        for name in holdings if self._holds else ():
            scripts = self._scripts_for(name)
            for records in scripts.iter_records(name):
                scripts.settle([settlement.release(*record) for record in records])

    def dead_letter(self, holdings: list[str], who: Culprit, error: str) -> None:
        """Dead-letter one prediction and leave everything else as it is.

        Raises:
            OperationalError, RedisError, OSError: the broker is unreachable.
        """
        if not self._holds:
            self._store_ends([_summarize_end({"task_id": who.prediction}, error)])
            return
        with self._ends_stored():
            for name in holdings:
                scripts = self._scripts_for(name)
                for records in scripts.iter_records(name):
                    theirs = [record for record in records if _task_id(record[1]) == who.message]
                    self._settle(scripts, [self._settle_record(*record, who, error, give_up=True) for record in theirs])

    def _scripts_for(self, holding: str) -> KeeperScripts:
        if holding not in self._scripts:
            with self._connect() as connection:
                channel = (
                    connection.channel()
                )  # which tries once, where kombu's default channel would wait for the broker
                assert isinstance(channel, Channel)
                self._scripts[holding] = channel.keeper.scripts_for(holding)
        return self._scripts[holding]

    def _settle_record(self, tag: str, record: bytes, who: Culprit | None, error: str, *, give_up: bool) -> Settlement:
        place, most = record.partition(b"\n")[0].decode(), self._max_deliveries(tag)
        raw = record.partition(b"\n")[2]
        if who is None:
            return settlement.worker_lost(tag, place, raw, error, most)
        if _task_id(record) != who.message:
            return settlement.release(tag, record)
        if give_up and who.prediction == who.message:
            return settlement.dead_letter(tag, place, STALLED, error, envelope.summarize(envelope.parse(raw)))
        if give_up:
            message = envelope.summarize(envelope.parse(raw))
            named = {REPLY_CHANNEL: message.get(REPLY_CHANNEL), "task_id": who.prediction}
            self._store_end_first(tag.rpartition(".")[0], _summarize_end(named, error))
        # A worker that gets a redelivered batch sends its unfinished inputs one by one.
        return settlement.worker_lost(tag, place, raw, error, most)

    def _settle(self, scripts: KeeperScripts, ends: list[Settlement]) -> None:
        scripts.settle(ends)
        self._dead += (json.loads(end.data) for end in ends if end.verb == "dead")

    @contextmanager
    def _ends_stored(self) -> Generator[None]:
        """Store errors for all that the block dead-letters, even if it fails halfway."""
        try:
            yield
        finally:
            dead, self._dead = self._dead, []
            if dead:
                self._store_ends(dead)

    def _store_end_first(self, holding: str, summary: Summary) -> None:
        """Store an error before the message is requeued, so that no worker runs the prediction again.

        It takes seconds, in which the worker doesn't renew its leases.
        """
        storing = threading.Thread(target=self._store_ends, args=([summary],), daemon=True)
        storing.start()
        scripts = self._scripts_for(holding)
        while storing.is_alive():
            scripts.heartbeat()
            storing.join(scripts.settings.heartbeat_s)

    def _max_deliveries(self, tag: str) -> int:
        return self._scripts[tag.rpartition(".")[0]].settings.max_deliveries


def _summarize_end(message: Summary, error: str) -> Summary:
    return {**message, "reason": STALLED, "error": error}


def _task_id(record: bytes) -> str | None:
    try:
        payload = envelope.parse(record.partition(b"\n")[2])
    except envelope.UnreadableMessageError:
        return None
    found = envelope.summarize(payload)["task_id"]
    return found if isinstance(found, str) else None
