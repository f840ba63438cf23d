"""Provenance: how a result was produced, complete enough to explain and to repeat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Timings:
    """How long the phases of one prediction took, in milliseconds of the worker's wall clock."""

    queued_ms: float
    snapshot_ms: float
    bind_ms: float
    run_ms: float


@dataclass(frozen=True, slots=True)
class Provenance:
    """How one result was produced.

    Attributes:
        task_id: the Celery task.
        session: the session, and ``token`` its exact revision.
        requirement: which revision the client required.
        variables: the variables that were bound, with their values at that revision.
        program: name, ``version`` number and content ``digest`` of the program.
        packages: the distributions that the program's own code comes from, with their versions on that worker.
        module: DSPy module class that ran, after a module-type variable was resolved.
        model: the LM's model string, and ``profile`` the LM profile it came from.
        usage: LM usage as DSPy counts it: model to token counts.
        attempt: 1 for the first try, one more with each delayed retry. Running again after a worker's death isn't
            another.
        worker: the Celery node that ran it, and ``pid`` its process.
        started_at: Unix seconds by the worker's clock.
        staleness_s: seconds since the session's authority was last known to agree with the revision.
        outage: whether that was more than the request allows, and its outage policy accepted it.
        refused: why the newest revision doesn't fit the program, so that an older one was used; empty if it does.
        answered: LM profile to the number of calls that it answered; one other than ``profile`` is a fallback.
        failed_tries: LM calls that failed before one succeeded, including those of earlier attempts.
        cached: LM calls answered by the response cache, and ``shared`` those that waited for another prediction's
            identical call.
        replayed: LM calls that an earlier delivery of the task had made, and whose answers were taken from its journal;
            ``replayed_tools`` are calls of tools that aren't idempotent, and ``unused`` is the number of its entries
            that this run didn't ask for, since the program isn't deterministic.
        finish_reasons: finish reason (``stop``, ``length``, ``tool_call``) to the number of LM answers with it.
        dropped: LM keyword that wasn't sent to the model that doesn't support it.
        cost_usd: what its LM calls cost, as an exact decimal number of USD; None if the cost of one isn't known.
        lm_usage: LM profile that answered to what its calls used: ``calls``, ``unpriced_calls``, ``input_tokens`` and
            the ``cached_input_tokens`` among them, ``output_tokens`` and the ``reasoning_tokens`` among them, and
            ``cost_usd``; None if no call of it is priced. Calls of earlier attempts are counted once, cached answers
            aren't.
        arms: the arms of rollouts and experiments that it ran under, each with ``rollout`` (its id), ``arm``, ``stage``
            and ``target``, the session or the program's label that is staged; an arm of an experiment has its name as
            ``experiment`` too, and stage 0. None if it wasn't assigned.
        trace_id: of the trace that it ran in, in hexadecimal; empty if it wasn't traced.
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
    replayed: int = 0
    replayed_tools: int = 0
    unused: int = 0
    finish_reasons: Mapping[str, int] = field(default_factory=dict[str, int])
    packages: Mapping[str, str] = field(default_factory=dict[str, str])
    dropped: Mapping[str, str] = field(default_factory=dict[str, str])
    cost_usd: str | None = None
    lm_usage: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    arms: Sequence[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    trace_id: str = ""

    @property
    def rollout(self) -> str:
        """The id of the rollout or experiment that it took part in, the first one of several; empty if of none."""
        return str(self.arms[0]["rollout"]) if self.arms else ""

    @property
    def arm(self) -> str:
        """The arm that it was assigned to in ``rollout``; empty if to none."""
        return str(self.arms[0]["arm"]) if self.arms else ""

    @property
    def truncated(self) -> bool:
        """Whether an answer was truncated at its token limit."""
        return self.finish_reasons.get("length", 0) > 0

    def encode(self) -> dict[str, Any]:
        """Return the JSON form that is stored in a result; it names a trace only if there is one."""
        # Not `asdict`, which copies every value deeply and would dominate the cost of encoding a result.
        plain = {name: getattr(self, name) for name in (_NAMES if self.trace_id else _UNTRACED_NAMES)}
        return {**plain, "timings": {name: getattr(self.timings, name) for name in _TIMINGS}}

    @classmethod
    def decode(cls, message: Mapping[str, Any]) -> Self:
        """Decode the JSON form; fields that a newer worker added are ignored."""
        values: dict[str, Any] = {
            **_known_fields(cls, message),
            "timings": Timings(**_known_fields(Timings, message["timings"])),
        }
        return cls(**values)


_NAMES = tuple(each.name for each in fields(Provenance))
_UNTRACED_NAMES = tuple(name for name in _NAMES if name != "trace_id")
_TIMINGS = tuple(each.name for each in fields(Timings))


def _known_fields(kind: type[Provenance] | type[Timings], message: Mapping[str, Any]) -> dict[str, Any]:
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in message.items() if name in names}
