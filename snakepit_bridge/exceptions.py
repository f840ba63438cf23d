"""Every error that this project raises, so that callers can catch by meaning and not by text.

    BridgeError
    ├── ValidationError                  a value breaks its type or a constraint        (also ValueError)
    │   └── CheckFailedError             values that together break a check of their session
    ├── InputError                       a prediction's inputs don't fit its program    (also ValueError)
    ├── ScoreError                       a score that can't be one                      (also ValueError)
    ├── JudgeError                       a judge that can't be one                      (also ValueError)
    ├── MetricError                      a metric that can't score                      (also ValueError)
    ├── EvaluationError                  an evaluation that can't be run                (also ValueError)
    ├── EvaluationNotFoundError          no record of an evaluation
    ├── BulkError                        a bulk run that can't go on so                 (also ValueError)
    ├── OptimizationError                an optimization that can't be run              (also ValueError)
    ├── GateError                        a gate that can't be one                       (also ValueError)
    ├── GateFailedError                  a release that doesn't meet its gates
    ├── JobNotFoundError                 no record of a job
    ├── BindingError                     a binding that could not take effect           (also ValueError)
    ├── UnknownModuleError               a module name that nobody registered           (also ValueError)
    ├── VariableNotFoundError                                                           (also ValueError)
    ├── SessionError
    │   ├── SessionNotFoundError
    │   ├── SessionNameError             what can't be the name of a session            (also ValueError)
    │   ├── AuthorityAwayError           variables that the session's authority has stopped confirming
    │   ├── StalenessExceededError       variables that were confirmed longer ago than the task accepts
    │   ├── SessionOwnedElsewhereError   a publisher that isn't the session's authority
    │   ├── SessionProtectedError        a change of what a rule protects and an Elixir server owns
    │   ├── StaleTokenError              a publish that expected another revision
    │   │   └── LabelMovedError          the same for a label
    │   ├── LabelNotFoundError
    │   ├── FencedError                  a publisher that lost its lease
    │   ├── RevisionLostError                 a revision that the store no longer has
    │   ├── RevisionNotAppliedError           a revision that not every worker process has acknowledged
    │   └── RevisionNotReachedError           a revision that did not come in time
    │   (and elixir.write_back's WriteNotShownError: Elixir has a change that no refresher has shown in time)
    ├── (elixir.errors' ElixirError and its subclasses: away, failed, not served, half written, unreadable)
    ├── ProgramError
    │   ├── ProgramNotFoundError
    │   └── ProgramSpecError             a rejected spec                                (also ValueError)
    ├── LMError
    │   ├── LMUnavailableError           down, overloaded, timed out: worth a retry
    │   ├── LMRefusedError               unauthorised, bad request: not worth one
    │   │   └── LMContentRefusedError    the model or a filter declined to answer
    │   └── LMAnswerError                an answer that the adapter can't parse
    │       └── LMAnswerTruncatedError   one that was cut off at the token limit
    ├── PredictionError
    │   ├── SubmitOptionError            an option of a prediction that can't be            (also ValueError)
    │   ├── ForeignNamespaceError        a request of another fleet, in a queue that both use
    │   ├── DeadlineExceededError                                                            (also TimeoutError)
    │   ├── PredictionCancelledError
    │   ├── PredictionTimeoutError            the client stopped waiting; the task goes on   (also TimeoutError)
    │   ├── PredictionUnknownError       a task of which there is no trace
    │   ├── PredictionNotScorableError   a score of a prediction without a result
    │   ├── PredictionNotReplayableError a replay of a prediction without a result
    │   ├── PredictionFailedError             the program raised something of its own
    │   ├── PredictionGivenUpError            no worker could finish it; it is in the dead-letter list
    │   ├── LMCallOutsidePredictionError  an LM call on a worker that belongs to no prediction
    │   ├── OwnLMError               an LM that a program made for itself, and that no profile declares
    │   ├── IdempotencyConflictError          one key, two different requests
    │   └── PayloadLostError             inputs or a result that went by reference and aren't there any more
    ├── DatasetError                 a dataset, or a file of examples, that can't be one (also ValueError)
    ├── DatasetNotFoundError         a dataset or a version of it that isn't stored
    ├── RecorderError                a recorder that can't be one                       (also ValueError)
    ├── RolloutMovedError            a step of a rollout that another one preceded
    ├── RolloutOverlapError          a rollout of what another one stages already       (also ValueError)
    ├── RolloutCandidateError        a candidate that can't be rolled out               (also ValueError)
    ├── RolloutPolicyError           an invalid policy of a rollout                     (also ValueError)
    ├── ExperimentError              an invalid experiment                              (also ValueError)
    ├── ExperimentNotFoundError      an experiment that doesn't run
    ├── RolloutStateError            a step that the rollout's present state doesn't allow
    │   └── RolloutNotFoundError     a step of what was never staged
    ├── ProtectionError              a rule of protection that can't be one             (also ValueError)
    ├── ApprovalRequiredError        a change of what is protected, which waits for somebody else's approval
    ├── ApprovalNotFoundError        no request of this id waits
    ├── ApprovalOutdatedError        an approved request whose target has moved on
    ├── ApprovalError                an approval that can't be given                    (also ValueError)
    ├── DeadMessageNotFoundError              no dead message of this id
    ├── DecryptionError              a stored value that this process's keys don't decrypt
    ├── NotReplicatedError               a write that too few replicas, or disks, have
    ├── StoreUnavailableError            Redis away, or not answering in time           (also ConnectionError)
    │   └── StoreForbiddenError          the user lacks a right there
    └── ConfigurationError               a setting or a service that the fleet can't run with
        └── DataFormatError          data of a newer release, which this one would misread

The fields of an exception are its ``args``, and the text is made from them in ``__str__``. That is what lets it
cross Celery's JSON result backend, which rebuilds an exception as ``type(*args)``, and come back as itself.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any, TypeVar, cast

from snakepit_bridge.redaction import redact

E = TypeVar("E", bound=BaseException)

_error = dataclass(eq=False, repr=False)


class BridgeError(Exception):
    """Base of every error of this project. Raised itself only with a plain message.

    Its texts are redacted as it is made, since most of them quote what a library or a server said.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*(redact(arg) if isinstance(arg, str) else arg for arg in args))

    def __post_init__(self) -> None:
        assert is_dataclass(self)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str):
                setattr(self, field.name, redact(value))
        self.args = tuple(getattr(self, field.name) for field in fields(self))


def join_names(names: Iterable[str], limit: int = 12) -> str:
    """Return the names as one readable list, cut off where it would stop being readable."""
    ordered = sorted(names)
    if not ordered:
        return "none"
    return ", ".join(ordered[:limit]) + (f" and {len(ordered) - limit} more" if len(ordered) > limit else "")


def suggest_name(name: str, names: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the name nearest to a misspelt one, or nothing."""
    matches = difflib.get_close_matches(str(name), list(names), n=1)  # what is no text is no name, and may come here
    return f" Did you mean '{matches[0]}'?" if matches else ""


def error_text(exc: BaseException) -> str:
    """Return an exception's text, even if its ``__str__`` fails or returns an unpaired surrogate."""
    try:
        return str(exc).encode("utf-8", "backslashreplace").decode()
    except Exception:  # noqa: BLE001 (the class's own code, which may do anything)
        return "its text can't be rendered"


def copy_error(exc: E) -> E:
    """Return a copy of a shared error, to be raised by one task alone.

    Each raise of an exception adds the raising task's frames to its traceback. So one instance that several tasks raise
    leads from each of them into the running frames of the others, and clearing those frames, as Celery does for a
    failed task, closes coroutines that still run. The copy has type, fields, notes and cause of the original,
    and no traceback. What can't be copied comes back as a ``BridgeError`` with its type and text.
    """
    copied = next((twin for make in (_rebuild, copy.copy) if (twin := _copy_by(exc, make)) is not None), None)
    twin = cast(E, BridgeError(f"{type(exc).__qualname__}: {error_text(exc)}") if copied is None else copied)
    if hasattr(exc, "__notes__"):
        twin.__notes__ = list(exc.__notes__)
    twin.__cause__, twin.__context__ = exc.__cause__, exc.__context__
    twin.__suppress_context__ = exc.__suppress_context__
    return twin.with_traceback(None)


def _copy_by(exc: BaseException, make: Callable[[BaseException], BaseException]) -> BaseException | None:
    """Return a copy of an error made by ``make``, or None unless it has the same type and text."""
    try:
        twin = make(exc)
        return twin if twin is not exc and type(twin) is type(exc) and str(twin) == str(exc) else None
    except Exception:  # noqa: BLE001 (an exception class may do anything in there; then there is the next way)
        return None


def _rebuild(exc: BaseException) -> BaseException:
    """Return a copy without a call of any ``__init__``, which may take other arguments than ``args``."""
    kind: Any = type(exc)
    twin: BaseException = kind.__new__(kind, *exc.args)
    twin.__dict__.update(vars(exc))
    for base in kind.__mro__:
        for name in _members(base):
            if hasattr(exc, name) and getattr(exc, name) != getattr(twin, name, None):
                setattr(twin, name, getattr(exc, name))
    return twin


def _members(kind: type) -> Iterator[str]:
    """Yield the names of a class's slots and C-level members, such as the ``errno`` of an ``OSError``."""
    for name, value in vars(kind).items():
        if isinstance(value, MemberDescriptorType | GetSetDescriptorType) and not name.startswith("__"):
            yield name


@_error
class ValidationError(BridgeError, ValueError):
    """A value that its variable's type or constraint refuses. Nothing was changed."""

    variable: str
    value: str = ""
    rule: str = ""

    def __str__(self) -> str:
        if not self.rule:
            return self.variable  # raised with a plain message, by code that only has one
        return f"Variable '{self.variable}' can't be {self.value}: {self.rule}. Publish a value that fits."


@_error
class CheckFailedError(ValidationError):
    """A publish whose values together break a check that their session declares. Nothing was changed."""

    session: str = ""
    check: str = ""

    def __str__(self) -> str:
        return (
            f"Session '{self.session}' refuses the publish by its check '{self.check}': {self.variable} can't be "
            f"{self.value}, since {self.rule}. Publish values that fit together."
        )


@_error
class InputError(BridgeError, ValueError):
    """Inputs that don't fit the program's signature. The LM was not called."""

    program: str
    field: str
    problem: str
    expected: Sequence[str] = ()

    def __str__(self) -> str:
        wants = f" The program takes: {', '.join(self.expected)}." if self.expected else ""
        return f"Program '{self.program}' can't take input '{self.field}': {self.problem}.{wants}"


@_error
class ScoreError(BridgeError, ValueError):
    """A score that is refused; nothing was stored. ``field`` names the part of it that is wrong."""

    field: str
    problem: str

    def __str__(self) -> str:
        return f"The score's {self.field} is refused: {self.problem}."


@_error
class JudgeError(BridgeError, ValueError):
    """A judge that is refused, or that can't judge; ``judge`` is the judged program and the name of its scores."""

    judge: str
    problem: str

    def __str__(self) -> str:
        return f"Judge '{self.judge}' can't be used: {self.problem}."


@_error
class DatasetError(BridgeError, ValueError):
    """Examples that can't be a dataset; nothing was stored. ``where`` is ``FILE:LINE``, an example or the dataset."""

    where: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem.rstrip('.')}."


@_error
class DatasetNotFoundError(BridgeError):
    """A dataset, or a version of it, that isn't stored: it was removed, or never there.

    ``problem`` says why the reference can't be any.
    """

    reference: str
    available: Sequence[str] = ()
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return f"Dataset not found: {self.reference!r}: {self.problem}. List datasets: dspex-fleet dataset list."
        hint = suggest_name(self.reference, self.available)
        return (
            f"Dataset not found: {self.reference}.{hint} Stored: {join_names(self.available)}. "
            f"Add it: dspex-fleet dataset add NAME FILE --inputs FIELD."
        )


@_error
class RecorderError(BridgeError, ValueError):
    """A recorder that is refused; ``program`` is the program whose predictions it would record."""

    program: str
    problem: str

    def __str__(self) -> str:
        return f"The recorder of '{self.program}' is refused: {self.problem.rstrip('.')}."


@_error
class MetricError(BridgeError, ValueError):
    """A metric that can't be used, or that gave no score: it raised, or returned NaN, text or the like."""

    metric: str
    problem: str

    def __str__(self) -> str:
        return f"Metric '{self.metric}' can't score: {self.problem}."


@_error
class EvaluationError(BridgeError, ValueError):
    """An evaluation that can't be run; ``where`` is the part that doesn't fit. No LM was called for it."""

    where: str
    problem: str

    def __str__(self) -> str:
        return f"The evaluation can't be run: {self.where}: {self.problem}."


@_error
class BulkError(BridgeError, ValueError):
    """A bulk run that can't go on so; ``where`` is the file or the option that doesn't fit."""

    where: str
    problem: str

    def __str__(self) -> str:
        return f"The bulk run can't go on: {self.where}: {self.problem}."


@_error
class EvaluationNotFoundError(BridgeError):
    """No record of an evaluation has this id, or several begin with it."""

    id: str
    problem: str = "there is no such record, or it has expired"

    def __str__(self) -> str:
        return f"Evaluation {self.id}: {self.problem}. List them: dspex-fleet evaluations list."


@_error
class OptimizationError(BridgeError, ValueError):
    """An optimization that can't be run on the fleet; ``where`` is the part that doesn't fit."""

    where: str
    problem: str

    def __str__(self) -> str:
        return f"The optimization can't be run: {self.where}: {self.problem}."


@_error
class JobNotFoundError(BridgeError):
    """No evaluation or optimization that runs on a worker, or ran there, has this id."""

    id: str

    def __str__(self) -> str:
        return f"There is no job {self.id[:100]}, or its record has expired. List them: dspex-fleet jobs list."


@_error
class GateError(BridgeError, ValueError):
    """A gate that can't be checked; nothing was released."""

    gate: str
    problem: str

    def __str__(self) -> str:
        return f"The gate {self.gate!r:.200} can't be checked: {self.problem}. Write it as 'exact(golden) >= 0.8'."


@_error
class GateFailedError(BridgeError):
    """A release that doesn't meet its conditions; nothing was changed. ``failed`` are those, with the scores."""

    target: str
    failed: Sequence[str]

    def __str__(self) -> str:
        return f"{self.target} stays as it is, since conditions aren't met: {'; '.join(self.failed)}."


@_error
class BindingError(BridgeError, ValueError):
    """A binding that can't take effect on this module; ``available`` are the attributes that can be bound."""

    module: str
    attribute: str
    problem: str
    available: Sequence[str] = ()

    def __str__(self) -> str:
        can = f" On {self.module} these can be bound: {', '.join(self.available)}." if self.available else ""
        return f"Can't bind '{self.attribute}' of {self.module}: {self.problem}.{can}"


@_error
class UnknownModuleError(BridgeError, ValueError):
    """A module name that is neither registered nor allow-listed."""

    name: str
    available: Sequence[str] = ()

    def __str__(self) -> str:
        shown = self.name[:100]
        hint = suggest_name(shown, self.available)
        return f"Unknown module type: {shown}.{hint} Available: {join_names(self.available)}."


@_error
class VariableNotFoundError(BridgeError, ValueError):
    """A variable that the session doesn't have."""

    variable_name: str
    session: str = ""
    available: Sequence[str] = ()

    def __str__(self) -> str:
        where = f" in session '{self.session}', which has: {join_names(self.available)}" if self.session else ""
        return f"Variable not found: {self.variable_name}{where}.{suggest_name(self.variable_name, self.available)}"


class SessionError(BridgeError):
    """Base of errors about a session and its revisions."""


@_error
class SessionNotFoundError(SessionError):
    """A session without any published revision; ``available`` are those that have one, where they were looked up."""

    session: str
    available: Sequence[str] = ()

    def __str__(self) -> str:
        return (
            f"Session not found: {self.session}.{suggest_name(self.session, self.available)} It has no published "
            f"variables; publish one first: dspex-fleet publish {self.session} name=value."
        )


@_error
class SessionNameError(SessionError, ValueError):
    """An invalid session name."""

    found: str

    def __str__(self) -> str:
        return f"A session's name is a text of 1 to 512 characters that aren't all blank; found {self.found}. Give one."


@_error
class AuthorityAwayError(SessionError):
    """A session whose authority has sent no heartbeat for too long, so that its variables may be outdated."""

    session: str
    authority: str
    silent_s: float
    silence_s: float
    age_s: float
    outage: str = "fail"

    def __str__(self) -> str:
        return (
            f"The authority of session '{self.session}', '{self.authority}', is away: its last heartbeat was "
            f"{self.silent_s:.1f} s ago, and one is expected every {self.silence_s:.1f} s at most. Its "
            f"variables were last confirmed {self.age_s:.1f} s ago; the prediction's outage contract is {self.outage}. "
            "Check that the Elixir server answers and still has the session, and that a refresher is running; "
            "outage='serve_stale(SECONDS)' lets a prediction run under variables of that age."
        )


@_error
class StalenessExceededError(SessionError):
    """A session whose variables were confirmed longer ago than the task accepts; its authority is up."""

    session: str
    age_s: float
    max_staleness_s: float
    outage: str = "fail"

    def __str__(self) -> str:
        return (
            f"The variables of session '{self.session}' were last confirmed by its authority {self.age_s:.1f} s ago; "
            f"the prediction accepts max_staleness={self.max_staleness_s:g} s, its outage contract is {self.outage}. "
            "Raise max_staleness, or make the refresher poll more often."
        )


@_error
class SessionOwnedElsewhereError(SessionError):
    """A publish by a publisher that isn't the session's authority. Nothing was changed."""

    session: str
    authority: str
    publisher: str

    def __str__(self) -> str:
        return (
            f"Session '{self.session}' is published by '{self.authority}', not by '{self.publisher}'. Change the "
            "variable there, or name that server (Fleet(bridge=…), --bridge), and the change is written to it."
        )


@_error
class SessionProtectedError(SessionError):
    """A change of a session that a rule protects and an Elixir server publishes: it can't wait for approval."""

    session: str
    rule: str
    authority: str

    def __str__(self) -> str:
        return (
            f"Session '{self.session}' is protected by rule {self.rule}, and published by '{self.authority}', which "
            "makes changes at once: none can wait for approval, so nothing was changed. Change it in the Elixir "
            "application; docs/how-to/protect.md says how its changes can be approved."
        )


@_error
class StaleTokenError(SessionError):
    """A compare-and-set publish that lost to a concurrent one. Nothing was changed."""

    session: str
    expected: str
    found: str

    def __str__(self) -> str:
        return (
            f"Session '{self.session}' is at {self.found}, not at the expected {self.expected}. "
            f"Read it again and publish on top of that."
        )


@_error
class LabelMovedError(StaleTokenError):
    """A compare-and-set of a label that lost to a concurrent move. Nothing was changed."""

    label: str

    def __str__(self) -> str:
        return (
            f"Label '{self.label}' of session '{self.session}' is at {self.found}, "
            f"not at the expected {self.expected}. "
            f"Check what it points at now, and move it from there."
        )


@_error
class RolloutMovedError(BridgeError):
    """A step of a rollout that lost to a concurrent one. Nothing was changed."""

    target: str
    expected: str
    found: str

    def __str__(self) -> str:
        return (
            f"The rollout of {self.target} is not as it was read: expected {self.expected or 'none'}, "
            f"found {self.found or 'none'}. Look at it again, and repeat the step if it still makes sense."
        )


@_error
class RolloutOverlapError(BridgeError, ValueError):
    """A rollout or an experiment that would stage what another one stages already. Nothing was changed."""

    target: str
    running: str
    remedy: str = "Wait for its end, or end it by 'dspex-fleet rollout abort' or 'dspex-fleet experiment stop'."

    def __str__(self) -> str:
        return f"{self.target} is staged by {self.running} already. {self.remedy}"


@_error
class RolloutStateError(BridgeError):
    """A step that a rollout's present state doesn't allow. Nothing was changed."""

    target: str
    step: str
    found: str

    def __str__(self) -> str:
        return (
            f"Can't {self.step} the rollout of {self.target}: {self.found}. "
            f"Look at it again: dspex-fleet rollout show {self.target}."
        )


@_error
class RolloutNotFoundError(RolloutStateError):
    """A step of a target that was never staged. Nothing was changed."""

    def __str__(self) -> str:
        return (
            f"Can't {self.step} the rollout of {self.target}: {self.found}. "
            f"Start one: dspex-fleet rollout start {self.target} CANDIDATE."
        )


@_error
class LabelNotFoundError(SessionError):
    """A label that names no revision of the session."""

    session: str
    label: str
    available: Sequence[str] = ()

    def __str__(self) -> str:
        return (
            f"Session '{self.session}' has no label '{self.label}'.{suggest_name(self.label, self.available)} "
            f"Its labels: {join_names(self.available)}."
        )


@_error
class FencedError(SessionError):
    """A publish under a lease that another holder has acquired since. Nothing was changed."""

    session: str
    fence: int
    current: int

    def __str__(self) -> str:
        return (
            f"Session '{self.session}' is fenced at {self.current}; the publish carried {self.fence}. "
            f"Another publisher holds the lease now; acquire it again before publishing."
        )


@_error
class RevisionLostError(SessionError):
    """An exact revision that was trimmed, or lost with the data of an older epoch."""

    session: str
    token: str
    oldest: str

    def __str__(self) -> str:
        return f"Session '{self.session}' no longer has {self.token}; the oldest available is {self.oldest}."


@_error
class RevisionNotReachedError(SessionError):
    """A required revision that the session did not reach within the wait."""

    session: str
    token: str
    found: str
    waited_s: float

    def __str__(self) -> str:
        return (
            f"Session '{self.session}' is at {self.found} and did not reach {self.token} in {self.waited_s:g} s. "
            f"Check that the token comes from a publish to this session and this store."
        )


@_error
class RevisionNotAppliedError(SessionError):
    """A revision that not every live process which holds its session has acknowledged."""

    session: str
    token: str
    waiting: str

    def __str__(self) -> str:
        return (
            f"Revision {self.token} of session '{self.session}' isn't applied everywhere: {self.waiting}. "
            "Fix the errors that they report, or wait for them."
        )


@_error
class RolloutCandidateError(BridgeError, ValueError):
    """A candidate that can't be rolled out. Nothing was changed."""

    target: str
    candidate: str
    problem: str
    remedy: str = "Choose another candidate."

    def __str__(self) -> str:
        return f"{self.candidate} can't be rolled out for {self.target}: {self.problem}. {self.remedy}"


@_error
class ExperimentError(BridgeError, ValueError):
    """An invalid experiment; nothing was changed. ``where`` is a path such as ``arms[1].weight``."""

    experiment: str
    where: str
    problem: str
    remedy: str = "Correct it and start it again."

    def __str__(self) -> str:
        named = f"Experiment '{self.experiment}'" if self.experiment else "The experiment"
        return f"{named} is refused at {self.where}: {self.problem.rstrip('.')}. {self.remedy}"


@_error
class ExperimentNotFoundError(BridgeError):
    """An experiment that doesn't run on its target: it has ended, or never began."""

    target: str
    experiment: str
    available: Sequence[str] = ()
    ended: str = ""

    def __str__(self) -> str:
        if self.ended:
            return (
                f"Experiment '{self.experiment}' doesn't run on {self.target} any more: it was {self.ended}. "
                f"Look at it: dspex-fleet experiment show {self.target} {self.experiment}."
            )
        return (
            f"No experiment '{self.experiment}' runs on {self.target}.{suggest_name(self.experiment, self.available)} "
            f"Running: {join_names(self.available)}."
        )


class ProgramError(BridgeError):
    """Base of errors about a registered program."""


@_error
class ProgramNotFoundError(ProgramError):
    """A program, version or label that isn't registered.

    ``problem`` says why the reference can't be any.
    """

    reference: str
    available: Sequence[str] = ()
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return f"Program not found: {self.reference!r}: {self.problem}. List programs: dspex-fleet programs."
        hint = suggest_name(self.reference, self.available)
        name, at, label = self.reference.partition("@")
        has_name = any(known.partition("@")[0].partition(":")[0] == name for known in self.available)
        remedy = (
            f"Set the label: dspex-fleet label {name} {label} VERSION."
            if at and has_name
            else ("Register it: dspex-fleet register FILE.")
        )
        return f"Program not found: {self.reference}.{hint} Registered: {join_names(self.available)}. {remedy}"


@_error
class ProgramSpecError(ProgramError, ValueError):
    """A rejected program spec; nothing of it was imported, built or stored."""

    program: str
    where: str
    problem: str

    def __str__(self) -> str:
        return f"The spec of program '{self.program}' is refused at {self.where}: {self.problem}."


@_error
class LMError(BridgeError):
    """A language model that did not give an answer.

    ``status`` is the HTTP status, 0 where there was none; ``profile`` the LM profile, and ``tries`` how often it was
    asked, both empty where unknown.
    """

    model: str
    code: str
    message: str
    status: int = 0
    retry_after_s: float = 0.0
    profile: str = ""
    tries: int = 0

    remedy = "Look at the LM server's log."

    def __str__(self) -> str:
        status = f" (HTTP {self.status})" if self.status else ""
        often = f" after {self.tries} tries" if self.tries > 1 else ""
        return f"LM '{self.model}' failed with {self.code}{status}{often}: {self.message.rstrip('.')}. {self.remedy}"


class LMUnavailableError(LMError):
    """The LM is down, overloaded or timed out. The call was tried again before this was raised."""

    remedy = "Check that the profile's api_base answers: dspex-fleet doctor."

    again_in_s: float | None = None
    """Inside a worker: seconds after which the whole task should be tried again. It doesn't travel."""

    failing_s: float = 0.0
    """Inside a worker: seconds for which the call has been tried again by then. It doesn't travel."""

    cause: str = ""
    """Inside a worker: profile, address and reason, for its log; no text of the provider's. It doesn't travel."""


class LMRefusedError(LMError):
    """The LM refused the request: unauthorised, out of credit, malformed, unsupported. Retrying won't help."""

    remedy = "Check the profile's key, model and parameters: dspex-fleet doctor."


class LMContentRefusedError(LMRefusedError):
    """The model or its provider's filter declined to answer; ``message`` is what it said instead."""

    remedy = "Change the inputs or the instructions; the same request would be declined again."


class LMAnswerError(LMError):
    """The LM answered, but not in a form that the adapter can parse."""

    remedy = "Try a stronger model, or simpler output fields."


class LMAnswerTruncatedError(LMAnswerError):
    """The LM's answer was cut off at its token limit, and what came can't be parsed. It wasn't asked again."""

    remedy = "Raise max_tokens, or ask for less."


class PredictionError(BridgeError):
    """Base of errors about one prediction on the fleet."""


@_error
class SubmitOptionError(PredictionError, ValueError):
    """An option of a prediction that is refused, such as its targeting key; ``option`` names it. Nothing was sent."""

    option: str
    problem: str

    def __str__(self) -> str:
        return f"The prediction's option '{self.option}' is refused: {self.problem.rstrip('.')}."


@_error
class DeadlineExceededError(PredictionError, TimeoutError):
    """The prediction's deadline passed before it had an answer."""

    task_id: str
    late_s: float

    def __str__(self) -> str:
        return f"Prediction {self.task_id} missed its deadline by {self.late_s:.3g} s. Add workers or a later deadline."


@_error
class ForeignNamespaceError(PredictionError):
    """A request of another fleet that reached this fleet's workers through a shared queue."""

    sent_in: str
    served: str

    def __str__(self) -> str:
        return (
            f"The request was sent in namespace '{self.sent_in}', and this worker serves '{self.served}'. "
            "Give each namespace its own queue, or leave the queue unset: DSPEX_QUEUE, Fleet(queue=…)."
        )


@_error
class PredictionCancelledError(PredictionError):
    """The prediction was cancelled."""

    task_id: str

    def __str__(self) -> str:
        return (
            f"Prediction {self.task_id} was cancelled. Submit it again if you still want it, under another idempotency "
            "key if it had one."
        )


@_error
class PredictionTimeoutError(PredictionError, TimeoutError):
    """The caller stopped waiting. The prediction itself goes on and can be awaited again.

    ``found`` says where the prediction was then, if that could be found out.
    """

    task_id: str
    waited_s: float
    found: str = ""

    def __str__(self) -> str:
        found = f"It {self.found}" if self.found else "It is still queued or running, or was never submitted here"
        text = f"Prediction {self.task_id} had no result after {self.waited_s:g} s. {found}"
        # No worker would take it from there.
        return f"{text}." if "dead list" in found else f"{text}; check that workers are up: dspex-fleet status."


@_error
class PredictionUnknownError(PredictionError):
    """An unknown task: it has no result, and no message in the fleet's queue or at a worker."""

    task_id: str
    looked_in: str

    def __str__(self) -> str:
        return (
            f"Prediction {self.task_id} is unknown: it has no result, and isn't in {self.looked_in}. "
            "Check the id, the Redis database, the namespace and the queue; a result may also have expired."
        )


@_error
class PredictionNotScorableError(PredictionError):
    """A score of a prediction that has no result: it is unknown, goes on, or its result has expired."""

    task_id: str

    def __str__(self) -> str:
        return (
            f"Prediction {self.task_id} can't be scored: it has no result. Check its id, or wait until it has ended; "
            "a result may also have expired, and can be kept longer (DSPEX_RESULT_EXPIRES_S)."
        )


@_error
class PredictionNotReplayableError(PredictionError):
    """A replay of a prediction that has no result: it is unknown, goes on, failed, or its result expired."""

    task_id: str

    def __str__(self) -> str:
        return (
            f"Prediction {self.task_id} has no result to replay: it is unknown, not finished, or its result expired. "
            "Check its id, or wait for it first."
        )


@_error
class PredictionFailedError(PredictionError):
    """The program itself raised: a tool, a module of the user's, DSPy. ``error`` names the exception's type."""

    program: str
    error: str
    message: str

    def __str__(self) -> str:
        return f"Program '{self.program}' raised {self.error}: {self.message}"


@_error
class LMCallOutsidePredictionError(PredictionError):
    """An LM call on a worker that belongs to no running prediction."""

    found: str

    def __str__(self) -> str:
        return (
            f"An LM was called outside of its prediction: {self.found}. On a worker each call is made under its "
            "prediction's limits, deadline and cancellation. Start threads within the program's forward, where "
            "threading.Thread, ThreadPoolExecutor, asyncio.to_thread and dspy.Parallel carry the prediction along. "
            "Code that is handed to a thread which exists already must be run by contextvars.copy_context().run."
        )


@_error
class OwnLMError(PredictionError):
    """A program on a worker called an LM that it created itself and that no LM profile declares."""

    model: str
    problem: str
    declared: str

    def __str__(self) -> str:
        return (
            f"The program calls an LM of its own, '{self.model}': {self.problem}. On a worker each LM call is "
            "made under its prediction's limits, deadline and cancellation, by an LM that the operator declared: "
            f"{self.declared}. Leave out the LM and bind 'model' to a variable, make it of a declared model without "
            "key and endpoint (dspy.LM('provider/model', temperature=…)), or declare it in a profile's models. An "
            "operator can also let programs ask any LM, past limits and cancellation: DSPEX_OWN_LMS=true."
        )


@_error
class PredictionGivenUpError(PredictionError):
    """A prediction that no worker could finish; its message is in the dead-letter list and can be retried."""

    task_id: str
    reason: str
    error: str

    def __str__(self) -> str:
        return (
            f"Prediction {self.task_id} was given up ({self.reason}): {self.error}. Its message is kept; "
            f"look at it with: dspex-fleet dead list."
        )


@_error
class IdempotencyConflictError(PredictionError):
    """An idempotency key that was used before, for another request."""

    key: str
    task_id: str

    def __str__(self) -> str:
        return (
            f"Idempotency key '{self.key}' belongs to prediction {self.task_id}, which has other inputs. "
            f"Use a new key for a new request."
        )


@_error
class PayloadLostError(PredictionError):
    """A payload that was too large for its message and is missing from the store; ``digest`` names it."""

    digest: str
    problem: str

    def __str__(self) -> str:
        return (
            f"The payload {self.digest[:12]}… is unavailable: {self.problem}. "
            f"Submit the prediction again; if it was only late, keep results longer (DSPEX_RESULT_EXPIRES_S)."
        )


@_error
class RolloutPolicyError(BridgeError, ValueError):
    """An invalid policy of a rollout; nothing was started. ``where`` is a path such as ``stages[1].share``."""

    where: str
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"The rollout policy is refused at {self.where}: found {self.found}. {self.remedy}"


@_error
class ProtectionError(BridgeError, ValueError):
    """A rule of protection can't be one."""

    rule: str
    problem: str

    def __str__(self) -> str:
        return f"The protection {self.rule} can't be: {self.problem}."


@_error
class ApprovalRequiredError(BridgeError):
    """A rule protects what was to be changed: nothing was changed, and a request for it waits for approval."""

    request: str
    target: str
    rule: str
    missing: int

    def __str__(self) -> str:
        by = "somebody else" if self.missing == 1 else f"{self.missing} others"
        return (
            f"{self.target} is protected by the rule {self.rule}; nothing was changed. Request {self.request} waits "
            f"until {by} approve{'s' if self.missing == 1 else ''} it: dspex-fleet approvals approve {self.request}."
        )


@_error
class ApprovalNotFoundError(BridgeError):
    """No request of this id waits: it was applied, was rejected, has expired, or never was."""

    request: str

    def __str__(self) -> str:
        return (
            f"No request {self.request} waits for approval: it was applied or rejected, or it has expired. "
            "List those that wait: dspex-fleet approvals list."
        )


@_error
class ApprovalOutdatedError(BridgeError):
    """A request was approved, but its target isn't what it was; nothing was changed, and the request is withdrawn."""

    request: str
    target: str
    problem: str

    def __str__(self) -> str:
        return (
            f"Request {self.request} was approved, but can't be applied to {self.target} any more: {self.problem} "
            "It is withdrawn; request the change again."
        )


@_error
class ApprovalError(BridgeError, ValueError):
    """Somebody can't approve a request, since they made it, have approved it already, or have no name."""

    request: str
    problem: str

    def __str__(self) -> str:
        return f"Request {self.request} isn't approved by this: {self.problem}."


@_error
class DeadMessageNotFoundError(BridgeError):
    """No message with this id is in the dead-letter list: it was retried, dropped, or never there."""

    id: str

    def __str__(self) -> str:
        return f"No dead message {self.id}. List them: dspex-fleet dead list."


@_error
class DecryptionError(BridgeError):
    """A stored value that can't be decrypted; ``what`` names its kind and place. The value itself stays as it is."""

    what: str
    problem: str

    def __str__(self) -> str:
        return f"Can't decrypt {self.what}: {self.problem}."


@_error
class NotReplicatedError(BridgeError):
    """A write that was to be on replicas or disks before it counts, and is in force on the primary.

    ``token`` is that of a revision, empty for anything else. ``on_disk`` says that servers count, the primary among
    them, once it is on their disks.
    """

    what: str
    token: str
    confirmed: int
    wanted: int
    wait_s: float
    on_disk: bool = False

    def __str__(self) -> str:
        missing = "servers have it on disk" if self.on_disk else "replicas have it"
        risk = "a crash of its machine, or a failover," if self.on_disk else "a failover now"
        return (
            f"{self.what} is in force, but {self.confirmed} of {self.wanted} {missing} after {self.wait_s:g} s: "
            f"{risk} would lose it. Look at the servers with 'dspex-fleet doctor', and do it again, which "
            "changes nothing and waits anew."
        )


@_error
class StoreUnavailableError(BridgeError, ConnectionError):
    """Redis can't be reached or does not answer in time. ``url`` never holds a password."""

    url: str
    problem: str

    def __str__(self) -> str:
        if self.url.partition("://")[0] in ("amqp", "amqps", "pyamqp"):
            return f"RabbitMQ at {self.url} is away: {self.problem}. Start it, or name another one with --broker-url."
        return f"Redis at {self.url} is away: {self.problem}. Start it, or name another one with --redis-url."


@_error
class StoreForbiddenError(StoreUnavailableError):
    """A Redis command, key or channel that the URL's user has no permission for. Retrying won't help."""

    user: str = "default"

    def __str__(self) -> str:
        return (
            f"User '{self.user}' lacks rights on Redis at {self.url}: {self.problem}. "
            "Give it those that 'dspex-fleet acl ROLE' prints for its role."
        )


class ConfigurationError(BridgeError):
    """A setting, profile or service that the fleet can't run with; the message says which and the fix."""


@_error
class DataFormatError(ConfigurationError):
    """A fleet's data has a format that this release doesn't know, and would misread."""

    namespace: str
    found: str
    known: int

    def __str__(self) -> str:
        return (
            f"The data of fleet '{self.namespace}' in Redis has format '{self.found}', and this process reads formats "
            f"up to {self.known}: a newer release wrote it. Upgrade this process; see docs/how-to/upgrade.md."
        )
