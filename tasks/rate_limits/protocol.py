"""The protocol between LM calls and the rate limiter.

A task's first call is admitted before the task starts, so that a task which must wait can be *parked*: its message
leaves the worker, and no slot is held. Later calls of the same task wait in the process, until its deadline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from snakepit_bridge.snapshots.snapshot import Snapshot

Basis = Literal["inputs", "prompt"]


class Caller(Protocol):
    """The task that calls an LM; ``PredictionContext`` is one."""

    @property
    def task_id(self) -> str:
        """The Celery task id."""
        ...

    @property
    def session(self) -> str:
        """The session that it runs under, whose limits apply to it."""
        ...

    @property
    def program(self) -> str:
        """The program, by which token estimates are kept."""
        ...

    @property
    def deadline(self) -> float | None:
        """Unix seconds after which it must not call the LM; None for no deadline."""
        ...

    @property
    def priority(self) -> int:
        """Priority of its message, 0 to 9 (most urgent)."""
        ...

    @property
    def claim(self) -> str | None:
        """Delivery tag of its message; None with another transport than ours."""
        ...

    @property
    def snapshot(self) -> Snapshot:
        """The variables that it runs under."""
        ...


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is known of a call before it is made.

    Attributes:
        characters: length of the text that goes to the LM.
        basis: which text: the task's inputs, before it starts, or the whole prompt of one call.
        max_output_tokens: the output limit of the call, None if it sets none.
        model: the model that is called, for its price.
    """

    characters: int
    basis: Basis = "prompt"
    max_output_tokens: int | None = None
    model: str = ""


@dataclass(frozen=True, slots=True)
class Used:
    """What a call used.

    Attributes:
        input_tokens, output_tokens: as the provider reported.
        cost_usd: what they cost; None to estimate it by the price of the model.
        model: the model that answered.
    """

    input_tokens: int
    output_tokens: int
    cost_usd: float | None = None
    model: str = ""


@dataclass(frozen=True, slots=True)
class Permit:
    """Permission for one LM call. It is a lease: the process renews it, and it expires after a crash.

    Attributes:
        profile: the LM profile that may be called.
        id: its id in the limits; empty if no limit applies to the call.
        program: the program whose estimates the call's usage updates.
        estimate: the estimate before the call.
        tokens: tokens reserved for it.
        spend: spend reserved for it, in the currency of the profile's prices.
    """

    profile: str
    id: str = ""
    program: str = ""
    estimate: Estimate = Estimate(0)
    tokens: float = 0.0
    spend: float = 0.0


@dataclass(frozen=True, slots=True)
class Parked:
    """The task was parked in its session's queue; this worker must not run or acknowledge it.

    Attributes:
        profile: the LM profile that it waits for.
        wait_s: estimated seconds until there is room.
    """

    profile: str
    wait_s: float


class RateLimiter(Protocol):
    """Admits LM calls. Lives on the home loop."""

    async def begin(self) -> None:
        """Start taking part; an idle worker may be the one that releases parked tasks.

        Raises:
            StoreUnavailableError: Redis is unavailable; connecting is retried in the background.
        """
        ...

    async def aclose(self) -> None:
        """Stop taking part; the permits of this process expire."""
        ...

    async def before_start(self, caller: Caller, profile: str, estimate: Estimate) -> Permit | Parked:
        """Admit a task's first call before the task starts, or parks the task.

        If its message can't be parked (another transport, or another Redis than the state's) it waits in this process.

        Raises:
            DeadlineExceededError: the deadline passed first.
            StoreUnavailableError: Redis is unavailable and a limit applies to the call.
        """
        ...

    async def admit(self, caller: Caller, profile: str, estimate: Estimate) -> Permit:
        """Admit one call, as soon as every limit that applies to it has room.

        Raises:
            DeadlineExceededError: the deadline passed first.
            StoreUnavailableError: Redis is unavailable and a limit applies to the call.
        """
        ...

    async def settle(self, permit: Permit, used: Used | None) -> None:
        """Settle a call: refund what was reserved but not used; what was used beyond it becomes debt.

        Args:
            permit: the permit of the call; settling it twice does nothing.
            used: None if the call failed: tokens and spend are refunded, the request stays counted.
        """
        ...

    async def give_back(self, permit: Permit) -> None:
        """Return a permit whose call was never made; everything is refunded."""
        ...

    async def forget(self, task_id: str) -> None:
        """Return the reservation of a task that ended before its first call."""
        ...

    async def pause(self, profile: str, seconds: float) -> None:
        """Stop all calls of the fleet to a profile for ``seconds``, as its provider asked."""
        ...


class Unlimited:
    """A rate limiter without limits, which needs no Redis."""

    async def begin(self) -> None:
        """Do nothing: nothing is ever parked."""

    async def aclose(self) -> None:
        """Do nothing: nothing was begun."""

    async def before_start(self, caller: Caller, profile: str, estimate: Estimate) -> Permit | Parked:
        """Admit the task at once."""
        return Permit(profile)

    async def admit(self, caller: Caller, profile: str, estimate: Estimate) -> Permit:
        """Admit the call at once."""
        return Permit(profile)

    async def settle(self, permit: Permit, used: Used | None) -> None:
        """Do nothing: nothing was reserved."""

    async def give_back(self, permit: Permit) -> None:
        """Do nothing: nothing was reserved."""

    async def forget(self, task_id: str) -> None:
        """Do nothing: nothing was reserved."""

    async def pause(self, profile: str, seconds: float) -> None:
        """Do nothing: calls are never paused."""
