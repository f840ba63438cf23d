"""Provenance: what produced a result, complete enough to explain it and to run it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one prediction went, in milliseconds of wall clock on the worker."""

    queued_ms: float
    snapshot_ms: float
    bind_ms: float
    run_ms: float


@dataclass(frozen=True, slots=True)
class Provenance:
    """What produced one result.

    Attributes:
        task_id: the Celery task.
        session: the session, and ``token`` its exact revision.
        requirement: what the client had asked of the revision.
        variables: the variables that were bound, with their values at that revision.
        program: name, ``version`` number and content ``digest`` of the program.
        packages: the distributions that the program's own code comes from, with their versions on that worker.
        module: DSPy module class that ran, after a module-type variable was resolved.
        model: the LM's model string, and ``profile`` the LM profile it came from.
        usage: LM usage as DSPy counts it: model to token counts.
        attempt: 1 for the first delivery, more after retries.
        worker: the Celery node that ran it, and ``pid`` its process.
        started_at: unix seconds by the worker's clock.
        staleness_s: seconds since the session's authority was last known to agree with the revision.
        outage: whether that was more than the request wanted, and its outage contract let it pass.
        refused: why it ran under an older revision than the newest, which its program refuses; empty if it did not.
        answered: LM profile to the calls that it answered; another than ``profile`` is one of its fallbacks.
        failed_tries: tries of LM calls that failed before one worked, those of earlier attempts included.
        cached: LM calls that the response cache answered, and ``shared`` those that waited for the answer to another
            prediction's identical call.
        finish_reasons: why the LM's answers ended, to how many did: ``stop``, ``length``, ``tool_call``.
        dropped: LM keywords that weren't sent, to the model that doesn't take them.
    """

    task_id: str
    session: str
    token: str
    requirement: str
    variables: Mapping[str, Any]
    program: str
    version: int
    digest: str
    module: str
    model: str
    profile: str
    usage: Mapping[str, Any]
    attempt: int
    worker: str
    pid: int
    started_at: float
    timings: Timings
    staleness_s: float = 0.0
    outage: bool = False
    refused: str = ""
    answered: Mapping[str, int] = field(default_factory=dict[str, int])
    failed_tries: int = 0
    cached: int = 0
    shared: int = 0
    finish_reasons: Mapping[str, int] = field(default_factory=dict[str, int])
    packages: Mapping[str, str] = field(default_factory=dict[str, str])
    dropped: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def truncated(self) -> bool:
        """Whether an answer was cut off at its token limit."""
        return self.finish_reasons.get("length", 0) > 0

    def encode(self) -> dict[str, Any]:
        """Returns the JSON form that travels in a result."""
        # Not `asdict`, which copies every value deeply and would cost more than all else that is done with a result.
        said = {name: getattr(self, name) for name in _NAMES}
        return {**said, "timings": {name: getattr(self.timings, name) for name in _TIMINGS}}

    @classmethod
    def decode(cls, message: Mapping[str, Any]) -> Self:
        """Reads the JSON form; fields that a newer worker added are left out."""
        said: dict[str, Any] = {**_known(cls, message), "timings": Timings(**_known(Timings, message["timings"]))}
        return cls(**said)


_NAMES = tuple(each.name for each in fields(Provenance))
_TIMINGS = tuple(each.name for each in fields(Timings))


def _known(kind: type[Provenance] | type[Timings], message: Mapping[str, Any]) -> dict[str, Any]:
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in message.items() if name in names}
