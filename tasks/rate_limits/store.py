"""The rate limits in Redis: buckets, permits, queues of parked tasks and pauses, each changed by one Lua script.

Why not throttled-py: its bucket is one key in whole seconds, so a call under several limits could take from one and be
refused by the next. A full bucket lets its whole capacity through and a window's refill after it, which a provider with
a sliding window answers with 429. And it has no settlement, no leases and no order among waiters.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.lease import LEASE_FUNCTIONS
from snakepit_bridge.redis.scripts import Script, source
from tasks.message_lease import MessageLeases
from tasks.rate_limits import lua
from tasks.rate_limits.protocol import Caller
from tasks.rate_limits.rules import Bucket

LEASE_MS = 10_000
"""Lease of a permit in milliseconds; its process renews it several times within."""
LEAD_MS = 3_000
_RESERVATION_MS = 30_000
_NO_CLAIM_LIBRARY = "local function claim_take() end"


@dataclass(frozen=True, slots=True)
class Costs:
    """The tokens and the spend of a call."""

    tokens: float
    spend: float


@dataclass(frozen=True, slots=True)
class Granted:
    """The call may be made; these costs are reserved for it."""

    costs: Costs


@dataclass(frozen=True, slots=True)
class LimitRefusal:
    """The call must wait: for the limit of its profile (``p``) or session (``s``), and at least ``wait_s``."""

    scope: str
    wait_s: float


@dataclass(frozen=True, slots=True)
class NotHeld:
    """The task's message is no longer leased by this worker: parked already, or redelivered."""


@dataclass(frozen=True, slots=True)
class Released:
    """The tasks released from one session's queue.

    Attributes:
        count: number of tasks.
        cost: their costs, as shares of the limit that they use most of.
        stop_reason: why no more were released: ``empty``, ``s``, ``p``, ``budget``, ``many``.
        wait_s: seconds until there may be room again.
        next_cost: cost of the next task.
    """

    count: int
    cost: float
    stop_reason: str
    wait_s: float
    next_cost: float


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """The reply to a heartbeat: whether the process leads the scheduling, and the pauses in seconds from now."""

    leads: bool
    pauses: Mapping[str, float]


@dataclass
class LimitStore:
    """The rate limits in one Redis: with our transport the broker's, so that parking and leasing are one atomic step.

    Args:
        connection: the connection to it.
        namespace: prefix of every key.
        claims: the leases on the broker's messages, in the same Redis; None if none can be parked.
        libraries: replacements for Lua libraries, such as a clock for tests.
    """

    connection: RedisConnection
    namespace: str = DEFAULT_NAMESPACE
    claims: MessageLeases | None = None
    libraries: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    _scripts: dict[str, Script] = field(default_factory=dict[str, Script], repr=False)

    @property
    def prefix(self) -> str:
        """The prefix of every key."""
        return FleetKeys(self.namespace).limits

    @property
    def pause_channel(self) -> str:
        """The channel that notifies every process of pauses: milliseconds and profile."""
        return f"{self.prefix}hints"

    @property
    def wake_channel(self) -> str:
        """The channel that notifies the scheduler of profiles that changed."""
        return f"{self.prefix}wakes"

    def ready_channel(self, process: str) -> str:
        """Return the channel that notifies a process of waiting tasks whose turn it is."""
        return f"{self.prefix}ready:{process}"

    async def admit(self, permit: str, profile: str, costs: Costs, buckets: Sequence[Bucket]) -> Granted | LimitRefusal:
        """Admit one call to all buckets, or return how long to wait.

        Raises:
            StoreUnavailableError: Redis is unavailable.
        """
        answer = await self._run(
            "admit", permit, profile, costs.tokens, costs.spend, LEASE_MS, *_encode_buckets(buckets)
        )
        return Granted(costs) if answer[0] == 1 else LimitRefusal(answer[1].decode(), float(answer[2]) / 1000)

    async def start(
        self, caller: Caller, permit: str, profile: str, costs: Costs, buckets: Sequence[Bucket], ready: str
    ) -> Granted | LimitRefusal | NotHeld:
        """Admit a task's first call, or queue the task under its session: parked, or waiting in its process.

        Args:
            caller: the task; one without a delivery tag waits in its process.
            permit, profile, costs, buckets: of its first call.
            ready: the channel that notifies a task waiting in its process.

        Raises:
            StoreUnavailableError: Redis is unavailable.
        """
        base = self.claims.base if self.claims else ""
        deadline_ms = 0 if caller.deadline is None else caller.deadline * 1000
        answer = await self._run(
            "start", caller.task_id, permit, profile, caller.session, costs.tokens, costs.spend, LEASE_MS,
            caller.priority, deadline_ms, base, self.parking_tag(caller), self.wake_channel, ready,
            *_encode_buckets(buckets),
        )  # fmt: skip
        if answer[0] == 1:
            return Granted(Costs(float(answer[1]), float(answer[2])))
        return NotHeld() if answer[0] == -1 else LimitRefusal(answer[1].decode(), float(answer[2]) / 1000)

    def parking_tag(self, caller: Caller) -> str:
        """Return the delivery tag of a message that can be parked; empty if the task must wait in its process."""
        return (caller.claim or "") if self.claims else ""

    async def leave(self, task: str) -> None:
        """Return the reservation of a task that makes no call, and remove it from its queue.

        Raises:
            StoreUnavailableError: Redis is unavailable.
        """
        await self._run("leave", task)

    async def settle(self, permit: str, real: Costs | None, *, requests: int = 1) -> None:
        """Settle a call with its real costs; None leaves everything as reserved.

        Raises:
            StoreUnavailableError: Redis is unavailable.
        """
        costs = ("", "", "") if real is None else (requests, real.tokens, real.spend)
        await self._run("settle", permit, self.wake_channel, *costs)

    async def stop_waiting(self, permit: str, profile: str) -> None:
        """Remove a call that was waiting in its process, so that it blocks no others."""
        await self.connection.wait_bounded(self.connection.client.zrem(f"{self.prefix}in_place:{profile}", permit))

    async def pause(self, profile: str, seconds: float) -> None:
        """Pause a profile, and notify every process.

        Raises:
            StoreUnavailableError: Redis is unavailable.
        """
        await self._run("pause", profile, f"{seconds * 1000:.0f}", self.pause_channel)

    async def send_heartbeat(
        self, process: str, permits: Collection[str] = (), waiting: Collection[str] = ()
    ) -> HeartbeatReply:
        """Renew the permits and the waiting tasks of a process; compete for the scheduling lead.

        Raises:
            StoreUnavailableError: Redis is unavailable.
        """
        leads, now, *pauses = await self._run("beat", process, LEAD_MS, LEASE_MS, len(permits), *permits, *waiting)
        ends = zip(pauses[::2], pauses[1::2], strict=True)
        left = {profile.decode(): (float(end) - float(now)) / 1000 for profile, end in ends}
        return HeartbeatReply(leads == 1, {profile: seconds for profile, seconds in left.items() if seconds > 0})

    async def release(
        self, profile: str, session: str, budget: float, most: int, reserved: int, buckets: Sequence[Bucket]
    ) -> Released:
        """Release tasks of one session into their broker queues, each with a reservation, while there is room.

        Raises:
            StoreUnavailableError: Redis is unavailable.
        """
        count, cost, stopped, wait, after = await self._run(
            "release", profile, session, budget, most, reserved, _RESERVATION_MS, *_encode_buckets(buckets)
        )
        return Released(count, float(cost), stopped.decode(), float(wait) / 1000, float(after))

    async def unpark(self, *tasks: str) -> int:
        """Release tasks without a reservation: the given ones, or by default those whose deadline has passed.

        Raises:
            StoreUnavailableError: Redis is unavailable.
        """
        return await self._run("let_go", *tasks)

    async def count_parked(self) -> dict[str, int]:
        """Return how many tasks are parked, by profile.

        Raises:
            StoreUnavailableError: Redis is unavailable.
        """
        counts: Any = await self.connection.wait_bounded(self.connection.client.hgetall(f"{self.prefix}waiting"))
        return {profile.decode(): int(count) for profile, count in counts.items()}

    async def list_sessions(self, profile: str) -> list[str]:
        """Return the sessions with tasks parked for a profile, in order of arrival.

        Raises:
            StoreUnavailableError: Redis is unavailable.
        """
        key = f"{self.prefix}sessions:{profile}"
        sessions: Any = await self.connection.wait_bounded(self.connection.client.zrange(key, 0, -1))
        return [session.decode() for session in sessions]

    async def _run(self, name: str, *args: Any) -> Any:
        script = self._scripts.get(name)
        if script is None:
            claim_take = self.claims.library if self.claims else _NO_CLAIM_LIBRARY
            text = source(
                lua.__name__,
                name,
                lease_functions=LEASE_FUNCTIONS,
                **{"claim_take": claim_take, **self.libraries},
            )
            script = self._scripts[name] = Script(text)
        # Scripts of one iteration of the event loop are pipelined.
        return await self.connection.execute_script(script, [self.prefix], args)


def _encode_buckets(buckets: Sequence[Bucket]) -> list[Any]:
    return [len(buckets), *(word for bucket in buckets for word in bucket.script_args)]
