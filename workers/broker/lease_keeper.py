"""The thread that renews a process's leases, whatever its main loop is busy with.

With each heartbeat, which renews all leases of the process, it sends settlements that a lost connection left over,
recovers claims whose reply never arrived, releases messages past their hold limit, redelivers the messages of dead
workers, and reconnects a consumer that is stalled while messages are waiting.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections.abc import Callable

from redis import Redis
from redis.exceptions import RedisError

from workers.broker import settlement
from workers.broker.dead_lettering import notify_listeners
from workers.broker.lease_settings import HEARTBEATS_PER_LEASE
from workers.broker.leases import LeaseTable
from workers.broker.scripts import KeeperScripts
from workers.broker.settlement import Settlement
from workers.watchdog.pulse import PULSE

logger = logging.getLogger(__name__)

_FLUSH_AT_EXIT_S = 3.0
# Consecutive heartbeats at which a claim must be known to the broker alone: its reply may be on the way.
_MIN_SIGHTINGS = HEARTBEATS_PER_LEASE


class LeaseKeeper:
    """Renews the leases of one table, from its first channel until nothing is held.

    Args:
        leases: the lease table.
        connect: creates the keeper's own client, without retries.
    """

    def __init__(self, leases: LeaseTable, connect: Callable[[], Redis]) -> None:
        self.leases = leases
        self._connect = connect
        self._scripts: KeeperScripts | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._flushed = threading.Condition()
        self._unknown: dict[str, int] = {}
        self._unreachable = False
        self._ran_at = self._answered_at = time.monotonic()

    def start(self) -> None:
        """Start the thread if it isn't running."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="dspex-claims", daemon=True)
                _RUNNING.add(self)
                PULSE.add_lease_holder(self.leases.worker)
                self._ran_at = self._answered_at = time.monotonic()
                self._thread.start()

    def flush(self, wait_s: float) -> bool:
        """Send all settlements now; return whether they were confirmed within ``wait_s`` seconds."""
        self.start()
        self._wake.set()
        with self._flushed:
            return self._flushed.wait_for(lambda: not self.leases.unsettled, wait_s)

    def scripts_for(self, worker: str) -> KeeperScripts:
        """Return scripts for another process's leases on this broker, on a new connection."""
        theirs = LeaseTable(self.leases.layout, self.leases.settings, worker)
        return KeeperScripts(self._connect(), theirs)

    @property
    def unsettled_count(self) -> int:
        """The number of settlements that the broker hasn't confirmed."""
        return len(self.leases.unsettled)

    @property
    def silent_s(self) -> float:
        """Seconds since the thread last ran; it waits for the broker for some seconds at most."""
        return time.monotonic() - self._ran_at

    @property
    def unanswered_s(self) -> float:
        """Seconds since the broker last answered."""
        return time.monotonic() - self._answered_at

    def _run(self) -> None:
        due = 0.0
        while True:
            self._ran_at = time.monotonic()
            self._wake.wait(max(0.0, due - time.monotonic()))
            flush = self._wake.is_set()
            self._wake.clear()
            beats = time.monotonic() >= due
            if beats:
                due = time.monotonic() + self.leases.settings.heartbeat_s
            if not self._run_once(beats=beats, flush=flush):
                due = min(due, time.monotonic() + self.leases.settings.heartbeat_s / 2)
            if self._stop_if_idle():
                return

    def _run_once(self, *, beats: bool, flush: bool) -> bool:
        try:
            scripts = self._get_scripts()
            if beats:
                self._send_heartbeat(scripts)
            self._send_settlements(scripts, flush=flush)
            self._unreachable = False
        except (RedisError, OSError) as exc:
            if not self._unreachable:
                logger.warning("Lease renewal failed, broker unreachable: %s", exc)
            self._unreachable = True
            self._disconnect()
        return not self._unreachable

    def _send_settlements(self, scripts: KeeperScripts, *, flush: bool) -> None:
        overdue = self.leases.overdue_settlements(0.0 if flush else self.leases.settings.heartbeat_s)
        if overdue:
            scripts.settle(overdue)
        with self._flushed:
            self._flushed.notify_all()

    def _send_heartbeat(self, scripts: KeeperScripts) -> None:
        count, dead = scripts.heartbeat()
        self._answered_at = time.monotonic()
        self._release_overdue(scripts)
        self._recover_undelivered(scripts, count)
        for worker, beat in dead:
            self._reap(scripts, worker, beat)
        self._restart_stalled_consumers(scripts)

    def _release_overdue(self, scripts: KeeperScripts) -> None:
        """Settle claims past their hold limit as if their worker had died: their tasks are stuck."""
        overdue = self.leases.overdue_claims()
        if not overdue:
            return
        logger.warning("Hold limit exceeded, redelivering %d messages", len(overdue))
        tags = {tag for tag, _ in overdue}
        records = [pair for batch in scripts.iter_records(self.leases.worker) for pair in batch if pair[0] in tags]
        for settled in self._settle_as_lost(records, "it was held for longer than its limit"):
            self.leases.settle(settled)
        for tag in tags:
            self.leases.held.pop(tag, None)
        scripts.count_expired(len(records))

    def _recover_undelivered(self, scripts: KeeperScripts, count: int) -> None:
        """Requeue claims that the broker recorded for this process but whose reply never arrived."""
        if count == len(self.leases.held) + len(self.leases.unsettled) and not self._unknown:
            return
        theirs = scripts.list_tags()
        ours = {*self.leases.held, *self.leases.unsettled}
        self._unknown = {tag: self._unknown.get(tag, 0) + 1 for tag in theirs if tag not in ours}
        for tag in [tag for tag, looks in self._unknown.items() if looks >= _MIN_SIGHTINGS]:
            record = scripts.get_record(tag)
            if record is not None:
                logger.warning("Claim %s was never delivered here, requeueing it", tag)
                self.leases.settle(settlement.release(tag, record))
            del self._unknown[tag]

    def _reap(self, scripts: KeeperScripts, worker: str, beat: str) -> None:
        error = f"worker {worker} missed its heartbeats while it held the message"
        for records in scripts.iter_records(worker):
            settlements = self._settle_as_lost(records, error)
            settled = scripts.reap(worker, beat, settlements)
            if settled is None:
                return
            self._ran_at = self._answered_at = time.monotonic()
            if settlements:
                logger.warning(
                    "Worker %s missed its heartbeats, redelivering %d of its messages", worker, len(settlements)
                )
            notify_listeners(settlements)
            scripts.count_expired(settled)

    def _settle_as_lost(self, records: list[tuple[str, bytes]], error: str) -> list[Settlement]:
        most, lost = self.leases.settings.max_deliveries, list[Settlement]()
        for tag, record in records:
            place, _, raw = record.partition(b"\n")
            lost.append(settlement.worker_lost(tag, place.decode(), raw, error, most))
        return lost

    def _restart_stalled_consumers(self, scripts: KeeperScripts) -> None:
        for channel in list(self.leases.channels):
            lists = channel.stalled_lists(self.leases.settings.stall_s)
            if lists and scripts.count_waiting(lists):
                logger.warning("The consumer of %s is stalled while messages are waiting, reconnecting it", lists[-1])
                channel.force_reconnect()

    def _get_scripts(self) -> KeeperScripts:
        if self._scripts is None:
            self._scripts = KeeperScripts(self._connect(), self.leases)
        return self._scripts

    def _disconnect(self) -> None:
        scripts, self._scripts = self._scripts, None
        if scripts is not None:
            scripts.client.close()
            scripts.client.connection_pool.disconnect()

    def _stop_if_idle(self) -> bool:
        """Stop the thread if nothing is held; the next channel starts another."""
        with self._lock:
            if not self.leases.idle:
                return False
            self._thread = None
            _RUNNING.discard(self)
        try:
            self._get_scripts().deregister()
        except (RedisError, OSError) as exc:
            logger.info("Deregistering this worker failed, broker unreachable; it is reaped later: %s", exc)
        self._disconnect()
        return True


_RUNNING: weakref.WeakSet[LeaseKeeper] = weakref.WeakSet()


def running_keepers() -> list[LeaseKeeper]:
    """Return the keepers of this process whose thread was started and has not stopped by itself."""
    return list(_RUNNING)


@atexit.register
def _flush_all() -> None:
    for keeper in list(_RUNNING):
        if keeper.unsettled_count and not keeper.flush(_FLUSH_AT_EXIT_S):
            logger.error("Broker unreachable at exit, %d settlements were not sent", keeper.unsettled_count)
