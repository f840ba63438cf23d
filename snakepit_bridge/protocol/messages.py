"""The messages between clients and workers: task names, headers, requests and results.

A prediction is a stock Celery message: task ``tasks.predict``, ``args = [inputs, program]`` and the fields of
:class:`PredictionRequest` as keywords. Its result is the JSON form of :class:`Result`; ``v`` is the protocol version.
Whether a task's state is final is the same for Python here and for scripts in ``client/lua/final_state.lua``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, cast

from snakepit_bridge.exceptions import SessionNameError
from snakepit_bridge.protocol.json_values import escape, unescape
from snakepit_bridge.protocol.targeting import Attributes
from snakepit_bridge.protocol.token import Token

PREDICT = "tasks.predict"
PREDICT_BATCH = "tasks.predict_batch"
DESCRIBE_METRIC = "tasks.describe_metric"
DESCRIBE_LM = "tasks.describe_lm"
RUN_JOB = "tasks.run_job"
FLEET_TASKS = (PREDICT, PREDICT_BATCH, DESCRIBE_METRIC, DESCRIBE_LM, RUN_JOB)
"""The tasks that workers of a fleet run."""

VERSION = 1
"""The version of requests and results that this release writes, and the newest that it reads."""

OLDEST_VERSION = 1
"""The oldest version that it reads."""

# `default` is a session like any other; it is used when no session is named.
DEFAULT_SESSION = "default"

# A message's priority is 0 to 9 (most urgent), for Fleet.submit, signatures and stock Celery clients alike.
MOST_URGENT = 9
DEFAULT_PRIORITY = 5

MAX_SESSION_CHARACTERS = 512


FINAL_STATES = frozenset({"SUCCESS", "FAILURE", "REVOKED"})
"""Celery's ``READY_STATES``, for readers of messages that don't load Celery."""

# Headers of a request's message: when it was sent, in Unix seconds by the client's clock; the pub/sub channel on which
# the task's id is published once its result is stored; and how many attempts of an LM call were made before.
SENT_AT = "sent_at"
REPLY_CHANNEL = "reply_channel"
LM_TRIES = "lm_tries"
LM_FAILING_S = "lm_failing_s"
# Header of predictions whose results wait for replicas or disks before their message is acknowledged: for which.
DURABILITY = "durability"
# Header of a prediction that was in a message before, such as that of its batch: its calls may have a journal.
SENT_AGAIN = "sent_again"
# Headers that identify a message's predictions, so that they can be failed even if the body can't be read: the
# reference of their program, and the task ids of a batch's inputs.
PROGRAM = "program"
TASK_IDS = "task_ids"

# Replaces the arguments in a message's headers, since headers appear in logs, events and queue monitors.
HIDDEN = "(not shown)"

# Suffix of a queue's companion queue, for programs that execute code.
CODE_SUFFIX = ".code"

Kind = Literal["latest", "at_least", "exactly"]


def check_session(name: object) -> str:
    """Return the name if it is a valid session name.

    Raises:
        SessionNameError: the name isn't text, is blank, too long, or not valid UTF-8.
    """
    if not isinstance(name, str):
        raise SessionNameError(f"a value of type {type(name).__name__}")
    if not name.strip():
        raise SessionNameError(repr(name[:20]))
    if len(name) > MAX_SESSION_CHARACTERS:
        raise SessionNameError(f"{len(name)} characters")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise SessionNameError("half of a surrogate pair, which UTF-8 can't hold") from None
    return name


def cancel_channel(namespace: str) -> str:
    """Return the pub/sub channel of cancelled tasks' ids, which workers and waiting clients subscribe to."""
    return f"{namespace}:cancel"


def chunks_key(namespace: str, task_id: str) -> str:
    """Return the key of an answer's stream of chunks, which is also the channel that announces new ones."""
    return f"{namespace}:pieces:{task_id}"


def code_queue(queue: str) -> str:
    """Return the name of the queue for those programs of a queue that execute code."""
    return queue if queue.endswith(CODE_SUFFIX) else f"{queue}{CODE_SUFFIX}"


def extract_task_ids(headers: Mapping[str, Any]) -> list[str]:
    """Return the task ids of all predictions in a message, read from its headers."""
    task_ids = headers.get(TASK_IDS)
    if isinstance(task_ids, list):
        return [task_id for task_id in cast("list[Any]", task_ids) if isinstance(task_id, str)]
    own = headers.get("id")
    return [own] if isinstance(own, str) else []


@dataclass(frozen=True, slots=True)
class Requirement:
    """Which revision of its session a prediction may run under.

    ``latest``: the newest there is. ``at_least``: that token or a newer one, which lets a publisher read its own
    writes. ``exactly``: that token and no other, for pins and replays.
    """

    kind: Kind = "latest"
    token: Token | None = None

    def __post_init__(self) -> None:
        if (self.kind == "latest") != (self.token is None):
            raise ValueError(f"Requirement '{self.kind}' and token {self.token} don't go together.")

    @classmethod
    def of(cls, at_least: Token | str | None = None, exactly: Token | str | None = None) -> Self:
        """Return the requirement for the two keywords of the public API; neither means ``latest``.

        Raises:
            ValueError: both are given, or the given one isn't a token.
        """
        if at_least is not None and exactly is not None:
            raise ValueError("Give at_least= or exactly=, not both: one is a lower bound, the other a pin.")
        if at_least is not None:
            return cls("at_least", _to_token(at_least))
        return cls() if exactly is None else cls("exactly", _to_token(exactly))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``latest``, ``at_least=TOKEN`` or ``exactly=TOKEN``.

        Raises:
            ValueError: the text is none of these.
        """
        kind, _, token = text.partition("=")
        if kind not in ("latest", "at_least", "exactly"):
            raise ValueError(f"A requirement reads latest, at_least=TOKEN or exactly=TOKEN; got {text!r}")
        return cls(kind, Token.parse(token) if token else None)

    def __str__(self) -> str:
        return self.kind if self.token is None else f"{self.kind}={self.token}"


def _to_token(value: Token | str) -> Token:
    return value if isinstance(value, Token) else Token.parse(value)


@dataclass(frozen=True, slots=True)
class PredictionRequest:
    """A client's request for one prediction.

    Attributes:
        program: reference to a registered program: ``qa``, ``qa@prod`` or ``qa:3``.
        inputs: input field name to JSON value; text is a reference to a payload. In a chain it is the previous task's
            :class:`Result` instead.
        session: the session whose variables the prediction runs under.
        requirement: which revision of that session.
        deadline: Unix time in seconds after which the prediction must not call the LM any more.
        take: for chains: input field to the previous result's output field.
        max_staleness: seconds since the session's authority last agreed with its variables that the prediction accepts
            at most; None sets no bound.
        outage: ``fail``, or ``serve_stale(SECONDS)``: what to do when the store or the authority is unreachable; None
            uses the fleet's policy.
        stream: whether chunks of the answer are published as the LM generates them.
        namespace: of the fleet that it was sent to; workers of another one reject it. Empty if the sender gave none.
        chained: whether the inputs may be a previous task's result. The inputs alone can't tell: an object of the same
            form may be ordinary data.
        escaped: whether the inputs of the message are escaped (see json_values.py).
        key: what its assignment to the arms of rollouts sticks to; without one it is its task.
        attributes: what is known of its origin, for experiments on a segment.
        trace: whether the result has the steps of the program.
        metric: what scores the prediction (see evaluations/metric.py); its message has the example's ``inputs`` and
            ``labels`` in place of the inputs then.
        evaluation: whether it is an example of an evaluation, which is no traffic for judges and recorders.
    """

    program: str
    inputs: Mapping[str, Any]
    session: str = DEFAULT_SESSION
    requirement: Requirement = field(default_factory=Requirement)
    deadline: float | None = None
    take: Mapping[str, str] | None = None
    max_staleness: float | None = None
    outage: str | None = None
    stream: bool = False
    namespace: str = ""
    chained: bool = False
    escaped: bool = False
    key: str = ""
    attributes: Attributes | None = None
    trace: bool = False
    metric: Mapping[str, Any] | None = None
    evaluation: bool = False

    def keywords(self) -> dict[str, Any]:
        """Return the keyword arguments of the Celery message, without those that equal their defaults."""
        keywords: dict[str, Any] = {"v": VERSION}
        if self.session != DEFAULT_SESSION:
            keywords["session"] = self.session
        if self.requirement.kind != "latest":
            keywords["requirement"] = str(self.requirement)
        keywords |= {name: value for name in _OPTIONAL if (value := getattr(self, name)) is not None}
        keywords |= {name: value for name in ("namespace", "key") if (value := getattr(self, name))}
        keywords |= {name: dict(value) for name in _OPTIONAL_MAPPINGS if (value := getattr(self, name))}
        keywords |= {
            name: True for name in ("stream", "chained", "escaped", "trace", "evaluation") if getattr(self, name)
        }
        return keywords


_OPTIONAL = ("deadline", "max_staleness", "outage")
_OPTIONAL_MAPPINGS = ("take", "attributes", "metric")


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a finished prediction.

    Attributes:
        outputs: output field to JSON value.
        provenance: how they were produced (see provenance.py).
        inputs: the request's inputs as received, so that the prediction can be repeated.
        completions: the outputs of every completion if there are several; ``outputs`` is the first of them.
        evaluation: what the request's metric says of it: ``score`` and ``feedback``, or ``error`` and ``problem``, and
            ``usage``; empty if it asked for none.
        payload: a reference to all of these if they are too large for a message; they are empty then.
        trace: the program's steps, each as JSON, if they were requested (see programs/steps.py).

    The inputs are text if they are a payload reference themselves.
    """

    outputs: Mapping[str, Any]
    provenance: Mapping[str, Any]
    inputs: Mapping[str, Any] | str = field(default_factory=dict[str, Any])
    completions: Sequence[Mapping[str, Any]] = ()
    payload: str | None = None
    trace: Sequence[Mapping[str, Any]] = ()
    evaluation: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def encode(self) -> dict[str, Any]:
        """Return the JSON form that the result backend stores; ``escaped`` marks one that had to be escaped."""
        inputs = self.inputs if isinstance(self.inputs, str) else dict(self.inputs)
        plain: dict[str, Any] = {"outputs": dict(self.outputs), "provenance": dict(self.provenance), "inputs": inputs}
        if self.completions:
            plain["completions"] = [dict(each) for each in self.completions]
        if self.trace:
            plain["trace"] = [dict(each) for each in self.trace]
        if self.evaluation:
            plain["evaluation"] = dict(self.evaluation)
        encoded = escape(plain)
        return {"v": VERSION, **encoded, **({} if encoded is plain else {"escaped": True})}

    @classmethod
    def decode(cls, message: Mapping[str, Any]) -> Self:
        """Decode the stored JSON form.

        Raises:
            ValueError: a newer worker wrote it in a version that this client doesn't know.
        """
        if message.get("v") not in range(OLDEST_VERSION, VERSION + 1):
            raise ValueError(f"This result has version {message.get('v')}, this client reads {VERSION}. Upgrade it.")
        if "payload" in message:
            return cls({}, {}, payload=message["payload"])
        if message.get("escaped"):
            message = {name: unescape(part) for name, part in message.items()}
        parts = message["outputs"], message["provenance"], message["inputs"], message.get("completions", ())
        return cls(*parts, trace=message.get("trace", ()), evaluation=message.get("evaluation", {}))


def is_result(value: object) -> bool:
    """Check whether a chained task's return value is a prediction's result; see :attr:`PredictionRequest.chained`."""
    if not isinstance(value, dict):
        return False
    found = cast(dict[str, Any], value)
    if found.get("v") != VERSION or not found.keys() <= _RESULT_KEYS:
        return False
    return {"outputs", "provenance", "inputs"} <= found.keys() or {"v", "payload"} == found.keys()


_RESULT_KEYS = frozenset({
    "v", "outputs", "provenance", "inputs", "completions", "trace", "evaluation", "escaped", "payload",
})  # fmt: skip


def is_final_state(state: str) -> bool:
    """Check whether no other state follows a state of Celery's: a success, a failure or a cancellation."""
    return state in FINAL_STATES


def is_final(stored: bytes | None) -> bool:
    """Check whether a stored result is final; one that isn't stored (yet), or isn't a result, is not."""
    if stored is None:
        return False
    try:
        result: Any = json.loads(stored)
    except (ValueError, RecursionError):
        return False
    state = cast("dict[str, Any]", result).get("status") if isinstance(result, dict) else None
    return isinstance(state, str) and is_final_state(state)
