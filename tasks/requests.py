"""Parse a task message: its keywords into a request, Celery's task request into a delivery, and load the inputs.

Inputs may be references to payloads, or the result of a chain's previous prediction, of which the request picks fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from celery import Task

from snakepit_bridge.delivery.payloads import Payloads, is_reference
from snakepit_bridge.encryption.cipher import is_encrypted
from snakepit_bridge.evaluations.metric import PinnedMetric
from snakepit_bridge.exceptions import (
    BridgeError,
    ConfigurationError,
    ForeignNamespaceError,
    InputError,
    SubmitOptionError,
)
from snakepit_bridge.protocol.json_values import ValueBounds, find_problem, unescape
from snakepit_bridge.protocol.messages import (
    DEFAULT_SESSION,
    DURABILITY,
    LM_FAILING_S,
    LM_TRIES,
    OLDEST_VERSION,
    REPLY_CHANNEL,
    SENT_AGAIN,
    SENT_AT,
    VERSION,
    PredictionRequest,
    Requirement,
    Result,
    check_session,
    is_result,
)
from snakepit_bridge.protocol.targeting import Attributes, check_attributes, check_key
from snakepit_bridge.redis.replication import ON_PRIMARY, Replication

_KNOWN_KEYWORDS = {
    "v", "session", "requirement", "deadline", "take", "max_staleness", "outage", "stream", "namespace", "key",
    "attributes", "chained", "escaped", "trace", "metric", "evaluation",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a request was delivered to this worker.

    Attributes:
        task_id: the Celery task id.
        worker: the Celery node name.
        attempt: 1 for the first attempt.
        sent_at: Unix seconds by the client's clock, 0 if unknown.
        priority: priority of the message, 0 to 9 (most urgent).
        queue: the queue that it was consumed from.
        claim: the delivery tag of the message.
        deliveries: 1, plus 1 for each worker that crashed with the message.
        hard_limit_s: seconds after which its worker ends it from outside; 0 if there is no such limit.
        reply_channel: the channel on which the client waits for the result; empty if there is none.
        durability: what the commit of its result waits for.
        tries: attempts at an LM call in earlier deliveries, and ``failing_s`` the seconds of retrying.
        checked_at: when its stored result was last checked, by the monotonic clock.
        is_repeated: whether it may have been delivered before, so that a journal of its calls may exist.
    """

    task_id: str
    worker: str
    attempt: int
    sent_at: float
    priority: int = 0
    queue: str = ""
    claim: str = ""
    deliveries: int = 1
    hard_limit_s: float = 0.0
    reply_channel: str = ""
    durability: Replication = ON_PRIMARY
    tries: int = 0
    failing_s: float = 0.0
    checked_at: float = float("-inf")
    is_repeated: bool = False


def parse_request(program: str, inputs: Any, keywords: Mapping[str, Any], *, namespace: str) -> PredictionRequest:
    """Parse the request of a message.

    Args:
        program: its program.
        inputs: its inputs.
        keywords: its keywords; those that have a default may be missing.
        namespace: the namespace that this worker serves.

    Raises:
        ForeignNamespaceError: it was sent in another namespace.
        ConfigurationError: its version or one of its keywords is unknown.
        SessionNameError: its session name is invalid.
        SubmitOptionError: its targeting key or its attributes are malformed.
        BridgeError: its requirement or its metric is malformed.
    """
    version = keywords.get("v", VERSION)
    if version not in range(OLDEST_VERSION, VERSION + 1):
        raise ConfigurationError(
            f"The request has version {version}, this worker reads {OLDEST_VERSION} to {VERSION}. "
            "Upgrade the older side."
        )
    if unknown := keywords.keys() - _KNOWN_KEYWORDS:
        raise ConfigurationError(f"The request says {', '.join(sorted(unknown))}, which this worker doesn't know.")
    key, attributes = _parse_targeting(keywords)
    sent_in = str(keywords.get("namespace") or "")
    if sent_in and sent_in != namespace:
        raise ForeignNamespaceError(sent_in, namespace)
    return PredictionRequest(
        program,
        inputs,
        check_session(keywords.get("session", DEFAULT_SESSION)),
        _parse_requirement(keywords.get("requirement", "latest")),
        keywords.get("deadline"),
        keywords.get("take"),
        keywords.get("max_staleness"),
        keywords.get("outage"),
        bool(keywords.get("stream", False)),
        sent_in,
        chained=bool(keywords.get("chained", False)),
        escaped=bool(keywords.get("escaped", False)),
        key=key,
        attributes=attributes,
        trace=bool(keywords.get("trace", False)),
        evaluation=bool(keywords.get("evaluation", False)),
        metric=None if keywords.get("metric") is None else PinnedMetric.decode(keywords["metric"]).encode(),
    )


def _parse_targeting(keywords: Mapping[str, Any]) -> tuple[str, Attributes | None]:
    key, attributes = keywords.get("key"), keywords.get("attributes")
    option = "key"
    try:
        checked = "" if key is None else check_key(key)
        option = "attributes"
        return checked, None if attributes is None else check_attributes(attributes)
    except ValueError as exc:
        raise SubmitOptionError(option, str(exc)) from None


def parse_delivery(task: Task, *, checked_at: float = float("-inf")) -> Delivery:
    """Return how the message of the running task was delivered.

    Args:
        task: the task.
        checked_at: when its stored result is looked up, by the monotonic clock.

    Raises:
        SubmitOptionError: its headers name a durability that isn't one.
    """
    request: Any = task.request
    route: Mapping[str, Any] = request.delivery_info or {}
    headers: Mapping[str, Any] = request.headers or {}
    properties: Mapping[str, Any] = request.properties or {}
    redelivered = bool(route.get("redelivered"))
    # Our transport counts deliveries; others only flag a redelivery.
    deliveries = int(properties.get("deliveries") or (2 if redelivered else 1))
    return Delivery(
        task_id=request.id,
        worker=request.hostname or "",
        attempt=request.retries + 1,
        sent_at=float(headers.get(SENT_AT, 0.0)),
        priority=route.get("priority") or 0,
        queue=route.get("routing_key") or "",
        claim=str(properties.get("delivery_tag") or ""),
        deliveries=deliveries,
        hard_limit_s=_hard_limit_s(task),
        reply_channel=str(headers.get(REPLY_CHANNEL) or ""),
        durability=Replication.of_headers(headers) if DURABILITY in headers else ON_PRIMARY,
        tries=int(headers.get(LM_TRIES) or 0),
        failing_s=float(headers.get(LM_FAILING_S) or 0.0),
        checked_at=checked_at,
        is_repeated=redelivered or deliveries > 1 or request.retries > 0 or bool(headers.get(SENT_AGAIN)),
    )


def _hard_limit_s(task: Task) -> float:
    """Return the hard time limit of the running task as Celery chooses it; 0 for none."""
    of_message: Any = (task.request.timelimit or (None,))[0]
    limit_s: Any = of_message or task.time_limit or task.app.conf.task_time_limit
    return float(limit_s or 0.0)


def _parse_requirement(text: str) -> Requirement:
    try:
        return Requirement.parse(text)
    except ValueError as exc:
        raise BridgeError(str(exc)) from None


def decrypt_request(payloads: Payloads, request: PredictionRequest, task_id: str) -> PredictionRequest:
    """Return the request of a prediction with its inputs, or the reference to them, decrypted.

    What a chain's previous prediction returned stays as it is: its result is decrypted when it is loaded.

    Raises:
        DecryptionError: they can't be decrypted, or aren't encrypted and have to be.
    """
    inputs: Any = request.inputs
    if isinstance(inputs, str) and is_encrypted(inputs):
        return replace(request, inputs=payloads.decrypt_inputs(inputs, task_id, request.program))
    if payloads.cipher.is_on and not (request.chained or request.take):
        payloads.cipher.check_plain("inputs", (task_id,))
    return request


async def fetch_payloads(payloads: Payloads, request: PredictionRequest) -> PredictionRequest:
    """Return the request with its inputs loaded and unescaped.

    Raises:
        PayloadLostError: a referenced payload has expired.
        StoreUnavailableError: Redis is unavailable.
    """
    inputs: Any = request.inputs
    if is_reference(inputs):
        return replace(request, inputs=await payloads.get(inputs))
    if request.escaped:
        inputs = unescape(inputs)
    elif request.chained or request.take:
        inputs = await _load_previous_results(payloads, inputs)
    return request if inputs is request.inputs else replace(request, inputs=inputs)


async def _load_previous_results(payloads: Payloads, inputs: Any) -> Any:
    """Return the result of a chain's previous prediction, or a group's list of results; anything else unchanged."""
    if is_result(inputs):
        return await payloads.load_result(Result.decode(inputs))
    if isinstance(inputs, list) and inputs and all(is_result(each) for each in cast(list[Any], inputs)):
        return [await payloads.load_result(Result.decode(each)) for each in cast(list[Any], inputs)]
    return inputs


def split_example(request: PredictionRequest) -> tuple[PredictionRequest, Mapping[str, Any]]:
    """Return a request of an evaluation with the inputs of its example alone, and the example's labels.

    Raises:
        InputError: it has no example.
    """
    if request.metric is None:
        return request, {}
    example: Any = request.inputs
    parts = (example.get("inputs"), example.get("labels")) if isinstance(example, dict) else (None, None)
    if not isinstance(parts[0], dict) or not isinstance(parts[1], dict):
        raise InputError(request.program, "inputs", "with a metric they are an object of 'inputs' and 'labels'")
    return replace(request, inputs=cast("dict[str, Any]", parts[0])), cast("dict[str, Any]", parts[1])


def select_inputs(request: PredictionRequest, bounds: ValueBounds) -> Mapping[str, Any]:
    """Return a request's inputs; in a chain, pick them from the previous result or from a group's results.

    Raises:
        InputError: the previous result lacks a selected field, the inputs aren't an object, or one is too deep or too
            large.
    """
    inputs = _collect_inputs(request)
    for name, value in inputs.items():
        if (problem := find_problem(value, bounds)) is not None:
            raise InputError(request.program, name, problem)
    return inputs


def _collect_inputs(request: PredictionRequest) -> Mapping[str, Any]:
    inputs: Any = request.inputs
    if isinstance(inputs, Result):
        return _pick(request, inputs.outputs, request.take or _same_names(inputs))
    if isinstance(inputs, list) and inputs and isinstance(inputs[0], Result):
        previous = cast("list[Result]", inputs)
        wanted = request.take or _same_names(previous[0])
        picked = [_pick(request, each.outputs, wanted) for each in previous]
        return {name: [each[name] for each in picked] for name in wanted}
    if not isinstance(inputs, dict):
        raise InputError(
            request.program, "inputs", f"they must be an object of named inputs, not {type(inputs).__name__}"
        )
    return cast("dict[str, Any]", inputs)


def _same_names(result: Result) -> Mapping[str, str]:
    return {name: name for name in result.outputs}


def _pick(request: PredictionRequest, outputs: Mapping[str, Any], wanted: Mapping[str, str]) -> dict[str, Any]:
    for name, output in wanted.items():
        if output not in outputs:
            raise InputError(request.program, name, f"the previous prediction has no output '{output}'", tuple(outputs))
    return {name: outputs[output] for name, output in wanted.items()}
