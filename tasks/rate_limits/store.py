"""The limits as Redis keeps them: buckets, permits, lanes and pauses, each changed by one script.

throttled-py was looked at first. Its bucket is one key in whole seconds, so that a call which several limits concern
could take from one and be refused by the next. A full one lets its whole capacity through and a window's refill after
it, which a provider that counts a sliding window answers with 429. And it knows no settlement, no lease and no order
among those who wait. The buckets here are therefore our own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.scripts import Script, source
from tasks.message_lease import MessageLeases
from tasks.rate_limits.protocol import Caller
from tasks.rate_limits.rules import Bucket

LEASE_MS = 10_000
"""For how long a permit is good; its process renews it several times within."""
LEAD_MS = 3_000
_RESERVATION_MS = 30_000
_NO_CLAIM_LIBRARY = "local function claim_take() end"


@dataclass(frozen=True, slots=True)
class Costs:
    """What a call takes besides being one request."""

    tokens: float
    spend: float


@dataclass(frozen=True, slots=True)
class Granted:
    """The call may be made, and this is what was reserved for it."""

    costs: Costs


@dataclass(frozen=True, slots=True)
class LimitRefusal:
    """The call must wait: for whose limit (``p`` or ``s``), and how many seconds at least."""

    scope: str
    wait_s: float


@dataclass(frozen=True, slots=True)
class NotHeld:
    """The task's message is in other hands: parked already, or claimed by somebody else."""


@dataclass(frozen=True, slots=True)
class Released:
    """What one look at a lane released.

    Attributes:
        count: tasks.
        cost: what they take, in shares of the limit that they take most of.
        stopped: why no more: ``empty``, ``s``, ``p``, ``budget``, ``many``.
        wait_s: seconds until there may be room again.
        next_cost: what the next task takes.
    """

    count: int
    cost: float
    stop_reason: str
    wait_s: float
    next_cost: float


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """What a process learns by its beat: whether it leads the movers, and the pauses in seconds from now."""

    leads: bool
    pauses: Mapping[str, float]


@dataclass
class LimitStore:
    """The limits in one Redis: the broker's where its transport is ours, so that parking is one step with the claim.

    Args:
        connection: the way to it.
        namespace: prefix of every key.
        claims: the claims on the broker's messages, in the same Redis; None where none can be parked.
        libraries: Lua text in place of a library's own, such as a clock that a test sets.
    """

    connection: RedisConnection
    namespace: str = "dspex"
    claims: MessageLeases | None = None
    libraries: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    _scripts: dict[str, Script] = field(default_factory=dict[str, Script], repr=False)

    @property
    def prefix(self) -> str:
        """What every key begins with."""
        return f"{self.namespace}:{{limits}}:"

    @property
    def pause_channel(self) -> str:
        """The channel that tells every process of pauses: milliseconds and profile."""
        return f"{self.prefix}hints"

    @property
    def wake_channel(self) -> str:
        """The channel that tells the mover of the profiles for which something changed."""
        return f"{self.prefix}wakes"

    def ready_channel(self, process: str) -> str:
        """Return the channel that names tasks which wait in a process and whose turn it is."""
        return f"{self.prefix}ready:{process}"

    async def admit(self, permit: str, profile: str, costs: Costs, buckets: Sequence[Bucket]) -> Granted | LimitRefusal:
        """Admit one call to all of the buckets, or says how long to wait.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        answer = await self._run(
            "admit", permit, profile, costs.tokens, costs.spend, LEASE_MS, *_encode_buckets(buckets)
        )
        return Granted(costs) if answer[0] == 1 else LimitRefusal(answer[1].decode(), float(answer[2]) / 1000)

    async def start(
        self, caller: Caller, permit: str, profile: str, costs: Costs, buckets: Sequence[Bucket], ready: str
    ) -> Granted | LimitRefusal | NotHeld:
        """Admit a task's first call, or has the task wait in its session's lane: parked, or in place.

        Args:
            caller: the task; one without a claim waits in place.
            permit, profile, costs, buckets: of its first call.
            ready: the channel on which a task that waits in place is told of its turn.

        Raises:
            StoreUnavailableError: Redis is away.
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
        """Return the tag under which a task's message can be parked; empty if it must wait in place."""
        return (caller.claim or "") if self.claims else ""

    async def leave(self, task: str) -> None:
        """Take back what was reserved for a task that makes no call, and its place if it waited in its process.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        await self._run("leave", task)

    async def settle(self, permit: str, real: Costs | None, *, requests: int = 1) -> None:
        """End a call with its real costs; None leaves everything as it was reserved.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        costs = ("", "", "") if real is None else (requests, real.tokens, real.spend)
        await self._run("settle", permit, self.wake_channel, *costs)

    async def stop_waiting(self, permit: str, profile: str) -> None:
        """Take a call that waited in place out of the way of others."""
        await self.connection.bounded(self.connection.client.zrem(f"{self.prefix}in_place:{profile}", permit))

    async def pause(self, profile: str, seconds: float) -> None:
        """Pause a profile, and tells every process.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        await self._run("pause", profile, f"{seconds * 1000:.0f}", self.pause_channel)

    async def send_heartbeat(
        self, process: str, permits: Collection[str] = (), waiting: Collection[str] = ()
    ) -> HeartbeatReply:
        """Renew what a process holds, and the places of tasks that wait in it; asks for the lead of the movers.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        leads, now, *pauses = await self._run("beat", process, LEAD_MS, LEASE_MS, len(permits), *permits, *waiting)
        ends = zip(pauses[::2], pauses[1::2], strict=True)
        left = {profile.decode(): (float(end) - float(now)) / 1000 for profile, end in ends}
        return HeartbeatReply(leads == 1, {profile: seconds for profile, seconds in left.items() if seconds > 0})

    async def release(
        self, profile: str, session: str, budget: float, most: int, reserved: int, buckets: Sequence[Bucket]
    ) -> Released:
        """Release tasks of a lane into their queues, each with a reservation, until something stops it.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        count, cost, stopped, wait, after = await self._run(
            "release", profile, session, budget, most, reserved, _RESERVATION_MS, *_encode_buckets(buckets)
        )
        return Released(count, float(cost), stopped.decode(), float(wait) / 1000, float(after))

    async def unpark(self, *tasks: str) -> int:
        """Put tasks back without a reservation: these, or without any those whose deadline is over.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        return await self._run("let_go", *tasks)

    async def count_parked(self) -> dict[str, int]:
        """Return how many tasks are parked, by profile.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        found: Any = await self.connection.bounded(self.connection.client.hgetall(f"{self.prefix}waiting"))
        return {profile.decode(): int(count) for profile, count in found.items()}

    async def list_sessions(self, profile: str) -> list[str]:
        """Return the sessions that have tasks parked for a profile, in the order in which they came.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        key = f"{self.prefix}sessions:{profile}"
        found: Any = await self.connection.bounded(self.connection.client.zrange(key, 0, -1))
        return [session.decode() for session in found]

    async def _run(self, name: str, *args: Any) -> Any:
        script = self._scripts.get(name)
        if script is None:
            claim_take = self.claims.library if self.claims else _NO_CLAIM_LIBRARY
            text = source("tasks.rate_limits.lua", name, **{"claim_take": claim_take, **self.libraries})
            script = self._scripts[name] = Script(text)
        # What the calls of one tick ask goes out together.
        return await self.connection.execute_script(script, [self.prefix], args)


def _encode_buckets(buckets: Sequence[Bucket]) -> list[Any]:
    return [len(buckets), *(word for bucket in buckets for word in bucket.script_args)]
