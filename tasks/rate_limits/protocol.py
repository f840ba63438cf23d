"""Admission: what the limits ask of a call, and what a call may count on. The gate before each LM call speaks this.

A task's first call is admitted before the task starts, so that one which must wait can be *parked*: its message leaves
the worker, and no slot is held. Later calls of the same task wait in place, bounded by its deadline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from snakepit_bridge.snapshots.snapshot import Snapshot

Basis = Literal["inputs", "prompt"]


class Caller(Protocol):
    """The task on whose behalf an LM is called, as the limits see it; the scope of a prediction is one."""

    @property
    def task_id(self) -> str:
        """The Celery task."""
        ...

    @property
    def session(self) -> str:
        """The session that it runs under, whose limits concern it."""
        ...

    @property
    def program(self) -> str:
        """The program, under whose name estimates are learned."""
        ...

    @property
    def deadline(self) -> float | None:
        """Unix seconds after which it must not call the LM."""
        ...

    @property
    def priority(self) -> int:
        """Priority of its message, 9 first."""
        ...

    @property
    def claim(self) -> str | None:
        """Tag of the claim under which this worker holds its message; None where the transport isn't ours."""
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
        basis: which text that is: the task's inputs, before it starts, or the whole prompt of one call.
        most_output: tokens that the LM may answer at most, where the call says so.
    """

    characters: int
    basis: Basis = "prompt"
    max_output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Used:
    """What a call really used, as the provider reported it: tokens."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave for one LM call. It is a lease: the process renews it, and a killed one gives it back.

    Attributes:
        profile: whose LM may be called.
        id: under which the limits remember it; empty where no limit concerned the call.
        program: whose estimates the call's real usage will improve.
        estimate: what was known before the call.
        tokens: tokens that were reserved for it.
        spend: the money that was reserved for it, in the currency of the profile's prices.
    """

    profile: str
    id: str = ""
    program: str = ""
    estimate: Estimate = Estimate(0)
    tokens: float = 0.0
    spend: float = 0.0


@dataclass(frozen=True, slots=True)
class Parked:
    """The task's message left this worker for the lane of its session; nobody here runs it, acks it or ends it.

    Attributes:
        profile: the LM profile that it waits for.
        wait_s: seconds after which there might be room, as far as is known.
    """

    profile: str
    wait_s: float


class RateLimiter(Protocol):
    """Grants calls. Lives on the home loop."""

    async def begin(self) -> None:
        """Take part from now on; a worker that merely waits for tasks may be the one to release those that are parked.

        Raises:
            StoreUnavailableError: Redis is away; it goes on trying by itself.
        """
        ...

    async def aclose(self) -> None:
        """Stop taking part; what this process holds is given back when its leases end."""
        ...

    async def before_start(self, caller: Caller, profile: str, estimate: Estimate) -> Permit | Parked:
        """Admit a task's first call before the task starts, or parks the task.

        Where its message can't be parked (a broker that isn't ours, or isn't the state's Redis) it waits in place.

        Raises:
            DeadlineExceededError: the deadline came first.
            StoreUnavailableError: Redis is away and a limit concerns the call.
        """
        ...

    async def admit(self, caller: Caller, profile: str, estimate: Estimate) -> Permit:
        """Admit one call, as soon as every limit that concerns it has room.

        Raises:
            DeadlineExceededError: the deadline came first.
            StoreUnavailableError: Redis is away and a limit concerns the call.
        """
        ...

    async def settle(self, permit: Permit, used: Used | None) -> None:
        """End a call: what was reserved too much is refunded, what was used beyond it becomes debt.

        Args:
            permit: what the call was admitted with; settling it twice does nothing.
            used: None if the call failed before its usage was known: its tokens and its money are refunded, the request
                stays counted.
        """
        ...

    async def give_back(self, permit: Permit) -> None:
        """Return a permit whose call was never made, all of it."""
        ...

    async def forget(self, task_id: str) -> None:
        """Return what was reserved for a task that ended before it could ask for its first call."""
        ...

    async def pause(self, profile: str, seconds: float) -> None:
        """Stop every call of the fleet to a profile for so long, as its provider asked."""
        ...


class Unlimited:
    """Admission where nothing is limited: every call goes ahead, and no Redis is asked."""

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
        """Do nothing: calls aren't held back here."""
