"""What travels between a client and a worker, so that both sides agree without importing each other.

A prediction is a stock Celery message: task ``tasks.predict``, ``args = [inputs, program]`` and the fields of
:class:`PredictionRequest` as keywords. Its result is the JSON form of :class:`Result`; ``v`` is the protocol version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, cast

from snakepit_bridge.exceptions import SessionNameError
from snakepit_bridge.protocol.json_values import escaped, unescaped
from snakepit_bridge.protocol.token import Token

PREDICT = "tasks.predict"
PREDICT_BATCH = "tasks.predict_batch"
PING = "tasks.about"
VERSION = 1

# `default` is a session like any other; it is merely the one that is meant when none is named.
DEFAULT_SESSION = "default"

# A message's priority is 0 to 9, the most urgent, whoever sends it: Fleet.submit, a signature, a stock Celery client.
MOST_URGENT = 9
DEFAULT_PRIORITY = 5

MAX_SESSION_CHARACTERS = 512


# Headers of a request's message: when it was sent, in unix seconds by the client's clock; the channel on which the
# client wants to be told the task's id when its result is there; and how many tries of an LM call were used up before.
SENT_AT = "sent_at"
REPLY_CHANNEL = "reply_channel"
LM_TRIES = "lm_tries"
LM_FAILING_S = "lm_failing_s"
# What a message says of its predictions beside its body, so that they can be ended where the body can't be read: the
# reference of their program, and the task ids of a batch's inputs.
PROGRAM = "program"
TASK_IDS = "task_ids"

# What stands in a message's headers in place of its arguments: headers go to logs, events and whoever looks at a queue.
HIDDEN = "(not shown)"

# What stands behind a queue's name in the name of its twin, for programs that execute code.
CODE = ".code"

Kind = Literal["latest", "at_least", "exactly"]


def check_session(name: object) -> str:
    """Return the name of a session.

    Raises:
        SessionNameError: it can't be one.
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
    """The channel on which the ids of cancelled tasks are told, to workers that may run them and clients that wait."""
    return f"{namespace}:cancel"


def pieces_key(namespace: str, task_id: str) -> str:
    """The stream of an answer's pieces, and the channel that says that there are more."""
    return f"{namespace}:pieces:{task_id}"


def code_queue(queue: str) -> str:
    """Returns the name of the queue that a queue's programs which execute code wait in."""
    return queue if queue.endswith(CODE) else f"{queue}{CODE}"


def task_ids_of(headers: Mapping[str, Any]) -> list[str]:
    """Return the task ids of all predictions that a message asks for, as its headers say."""
    said = headers.get(TASK_IDS)
    if isinstance(said, list):
        return [one for one in cast("list[Any]", said) if isinstance(one, str)]
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
        """Makes a requirement from the two keywords of the public API; none means ``latest``.

        Raises:
            ValueError: both are given, or one isn't a token.
        """
        if at_least is not None and exactly is not None:
            raise ValueError("Give at_least= or exactly=, not both: one is a lower bound, the other a pin.")
        if at_least is not None:
            return cls("at_least", _token(at_least))
        return cls() if exactly is None else cls("exactly", _token(exactly))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads ``latest``, ``at_least=TOKEN`` or ``exactly=TOKEN``.

        Raises:
            ValueError: the text is none of these.
        """
        kind, _, token = text.partition("=")
        if kind not in ("latest", "at_least", "exactly"):
            raise ValueError(f"A requirement reads latest, at_least=TOKEN or exactly=TOKEN; got {text!r}")
        return cls(kind, Token.parse(token) if token else None)

    def __str__(self) -> str:
        return self.kind if self.token is None else f"{self.kind}={self.token}"


def _token(value: Token | str) -> Token:
    return value if isinstance(value, Token) else Token.parse(value)


@dataclass(frozen=True, slots=True)
class PredictionRequest:
    """One prediction, as a client asks for it.

    Attributes:
        program: reference to a registered program: ``qa``, ``qa@prod`` or ``qa:3``.
        inputs: input field name to JSON value; text is a reference to a payload. In a chain it is the previous task's
            :class:`Result` instead.
        session: the session whose variables the prediction runs under.
        requirement: which revision of that session.
        deadline: unix seconds after which the prediction must not call the LM any more.
        take: for chains: input field to the previous result's output field.
        max_staleness: seconds since the session's authority last agreed with its variables that the prediction accepts
            at most; None sets no bound.
        outage: ``fail``, or ``serve_stale(SECONDS)``: what becomes of it when the store or the authority is away; None
            leaves it to the fleet.
        stream: whether the pieces of its answer are published as the LM writes them.
        namespace: of the fleet that it was sent in; workers of another refuse it. Empty where its sender didn't say.
        chained: whether the inputs may be a previous task's result. Nothing in the inputs themselves says so: an object
            of the same form is data like any other.
        escaped: whether the inputs of the message are escaped (see json_values.py).
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

    def keywords(self) -> dict[str, Any]:
        """Returns the keyword arguments of the Celery message; what equals its default stays out."""
        said: dict[str, Any] = {"v": VERSION}
        if self.session != DEFAULT_SESSION:
            said["session"] = self.session
        if self.requirement.kind != "latest":
            said["requirement"] = str(self.requirement)
        if self.deadline is not None:
            said["deadline"] = self.deadline
        if self.take:
            said["take"] = dict(self.take)
        if self.max_staleness is not None:
            said["max_staleness"] = self.max_staleness
        if self.outage is not None:
            said["outage"] = self.outage
        if self.namespace:
            said["namespace"] = self.namespace
        said |= {name: True for name in ("stream", "chained", "escaped") if getattr(self, name)}
        return said


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished prediction left.

    Attributes:
        outputs: output field to JSON value.
        provenance: how they came about (see provenance.py).
        inputs: what was asked, as it arrived, so that it can be asked again.
        completions: the outputs of every completion, where there are several; ``outputs`` is the first of them.
        payload: a reference to all of these, which are empty then, where they are too large for a message.

    The inputs are text where they are a reference themselves.
    """

    outputs: Mapping[str, Any]
    provenance: Mapping[str, Any]
    inputs: Mapping[str, Any] | str = field(default_factory=dict[str, Any])
    completions: Sequence[Mapping[str, Any]] = ()
    payload: str | None = None

    def encode(self) -> dict[str, Any]:
        """Returns the JSON form that the result backend stores; it says so if something in it had to be escaped."""
        asked = self.inputs if isinstance(self.inputs, str) else dict(self.inputs)
        said: dict[str, Any] = {"outputs": dict(self.outputs), "provenance": dict(self.provenance), "inputs": asked}
        if self.completions:
            said["completions"] = [dict(each) for each in self.completions]
        crossing = escaped(said)
        return {"v": VERSION, **crossing, **({} if crossing is said else {"escaped": True})}

    @classmethod
    def decode(cls, message: Mapping[str, Any]) -> Self:
        """Reads the stored JSON form.

        Raises:
            ValueError: a newer worker wrote it in a form that this version doesn't know.
        """
        if message.get("v") != VERSION:
            raise ValueError(f"This result has version {message.get('v')}, this client reads {VERSION}. Upgrade it.")
        if "payload" in message:
            return cls({}, {}, payload=message["payload"])
        if message.get("escaped"):
            message = {name: unescaped(part) for name, part in message.items()}
        return cls(message["outputs"], message["provenance"], message["inputs"], message.get("completions", ()))


def is_result(value: object) -> bool:
    """Tells a previous prediction's result from what another task of a chain returned; see :attr:`Request.chained`."""
    if not isinstance(value, dict):
        return False
    found = cast(dict[str, Any], value)
    if found.get("v") != VERSION or not found.keys() <= _OF_A_RESULT:
        return False
    return {"outputs", "provenance", "inputs"} <= found.keys() or {"v", "payload"} == found.keys()


_OF_A_RESULT = frozenset({"v", "outputs", "provenance", "inputs", "completions", "escaped", "payload"})
