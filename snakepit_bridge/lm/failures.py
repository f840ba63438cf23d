"""Classify errors in providers' replies, whatever the HTTP status, in the formats that providers use.

Once a stream has started its status is 200, and some gateways answer everything with 200. The code, the status or the
type in the body then decides as the HTTP status would have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from dspy.lm15 import (
    AuthError,
    BillingError,
    ContextLengthError,
    InvalidRequestError,
    LM15Error,
    ProviderError,
    RateLimitError,
    ServerError,
    UnsupportedModelError,
    Usage,
)
from dspy.lm15 import TimeoutError as LMTimeout

from snakepit_bridge.protocol.json_values import repair_text

_MAX_MESSAGE_CHARS = 2_000
_STATUS_KEYS = ("code", "status", "status_code", "http_status", "statusCode")
_CODE_KEYS = ("code", "type", "status", "reason")

# Error codes and types of OpenAI, Anthropic, Google, Azure, OpenRouter, vLLM, llama.cpp and similar servers.
_KINDS: tuple[tuple[type[ProviderError], int, frozenset[str]], ...] = tuple(
    (kind, status, frozenset(words.split()))
    for kind, status, words in (
        (
            BillingError,
            402,
            "insufficient_quota billing_error billing_not_active payment_required insufficient_balance "
            "exceeded_current_quota_error billing_hard_limit_reached insufficient_credits",
        ),
        (
            ContextLengthError,
            400,
            "context_length_exceeded exceed_context_size_error string_above_max_length context_window_exceeded "
            "request_too_large",
        ),
        (
            RateLimitError,
            429,
            "rate_limit_error rate_limit_exceeded rate_limit rate_limited too_many_requests resource_exhausted "
            "throttling throttlingexception tokens requests no_capacity ratelimiterror concurrency_limit",
        ),
        (LMTimeout, 504, "timeout timeout_error request_timeout gateway_timeout deadline_exceeded timeouterror"),
        (
            AuthError,
            401,
            "authentication_error invalid_api_key unauthenticated unauthorized permission_error permission_denied "
            "forbidden invalid_authentication account_deactivated access_denied",
        ),
        (
            UnsupportedModelError,
            404,
            "model_not_found not_found_error not_found model_not_available unsupported_model deploymentnotfound "
            "notfounderror",
        ),
        (
            ServerError,
            500,
            "server_error api_error internal_error internal internal_server_error internalservererror overloaded_error "
            "overloaded engine_overloaded unavailable unavailable_error service_unavailable bad_gateway aborted "
            "service_unavailable_error upstream_error provider_error backend_error",
        ),
        (
            InvalidRequestError,
            400,
            "invalid_request_error invalid_argument bad_request badrequesterror invalid_prompt failed_precondition "
            "invalid_request invalid_value validation_error unprocessable_entity",
        ),
    )
)
_FILTERS = {
    *("content_filter", "content_policy_violation", "content_filter_error", "responsibleaipolicyviolation"),
    *("safety", "prohibited_content", "moderation", "refusal"),
}
_RESPONSE_KEYS = frozenset({"choices", "output", "candidates", "content", "message", "completion", "delta", "response"})


class AnswerRefusedError(InvalidRequestError):
    """The model, or its provider's content filter, refused to answer; the message is the text of the refusal."""

    default_code = "refusal"


def report_usage(error: LM15Error, usage: Usage) -> LM15Error:
    """Return an error that carries what its failed request used, which the provider bills all the same."""
    error.__dict__[_USAGE] = usage
    return error


def find_usage(error: LM15Error) -> Usage | None:
    """Return what a failed request used; None if the provider didn't report it."""
    usage = error.__dict__.get(_USAGE)
    return usage if isinstance(usage, Usage) and usage != Usage() else None


_USAGE = "dspex_usage"


def find_failure(payload: Any) -> LM15Error | None:
    """Return the error that a reply's body or a stream's event holds; None if it holds none."""
    if isinstance(payload, list):
        found = cast("list[Any]", payload)
        return find_failure(found[0]) if len(found) == 1 else None
    if not isinstance(payload, Mapping):
        return None
    body = cast("Mapping[str, Any]", payload)
    for error in _iter_error_candidates(body):
        return report_usage(_build_error(error, body), _parse_usage(body.get("usage")))
    return None


def find_failure_in_text(text: str | bytes) -> LM15Error | None:
    """Return the error that a body or an event in JSON holds; None if it holds none or isn't JSON."""
    sign, other = ('"error', '"detail"') if isinstance(text, str) else (b'"error', b'"detail"')
    if sign not in text and other not in text:  # pyright: ignore[reportOperatorIssue]
        return None
    try:
        return find_failure(json.loads(text))
    except (ValueError, RecursionError):
        return None


def parse_error_event(text: str) -> LM15Error:
    """Return the error of an ``error`` event, whatever its data."""
    try:
        payload: Any = json.loads(text)
    except (ValueError, RecursionError):
        payload = text
    found = find_failure(payload)
    if found is not None:
        return found
    details = cast("Mapping[str, Any]", payload) if isinstance(payload, Mapping) else {"message": str(payload)}
    return _build_error(details, details)


def find_refusal(response: Any) -> AnswerRefusedError | None:
    """Return the error of a response that is a refusal or was filtered; None for any other response."""
    refusals = [part.text for part in response.message.parts if part.type == "refusal"]
    filtered = response.finish_reason == "content_filter"
    if not refusals and not filtered:
        return None
    text = " ".join(text for text in (*refusals, response.text or "") if text).strip()
    message = repair_text(text) or "the provider's filter held the answer back"
    refused = AnswerRefusedError(message, code="content_filter" if filtered else "refusal")
    report_usage(refused, response.usage)
    return refused


def cut_off_error(partial: str = "") -> LM15Error:
    """Return the error of a response that was cut off."""
    from dspy.lm15 import TransportError

    after = f" after {len(partial)} characters" if partial else ""
    return TransportError(f"the answer ended{after} before it was whole", code="cut_off")


def malformed_reply_error(problem: object, status: int | None = None) -> LM15Error:
    """Return the error of a malformed reply: garbage, an HTML page, fields of the wrong types."""
    text = " ".join(str(problem).split())[:_MAX_MESSAGE_CHARS]
    return ServerError(f"the reply can't be read: {text}", code="malformed_reply", status=status)


def sanitize_usage(payload: Any) -> Any:
    """Return a reply's body or a stream's event without usage counts that aren't valid numbers."""
    if not isinstance(payload, Mapping) or "usage" not in payload:
        return payload
    body = dict(cast("Mapping[str, Any]", payload))
    usage = body.pop("usage")
    if isinstance(usage, Mapping):
        body["usage"] = _keep_valid_counts(cast("Mapping[str, Any]", usage))
    return body


# ---------------------------------------------------------------- inside


def _keep_valid_counts(usage: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in usage.items():
        if isinstance(value, Mapping):
            kept[name] = _keep_valid_counts(cast("Mapping[str, Any]", value))
        elif isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            kept[name] = value
    return kept


def _parse_usage(usage: Any) -> Usage:
    """Return the usage of a body in OpenAI's form; counts that aren't valid are left out."""
    if not isinstance(usage, Mapping):
        return Usage()
    counts = _keep_valid_counts(cast("Mapping[str, Any]", usage))
    given, written = counts.get("prompt_tokens_details"), counts.get("completion_tokens_details")
    return Usage(
        input_tokens=_first_count(counts, "prompt_tokens", "input_tokens"),
        output_tokens=_first_count(counts, "completion_tokens", "output_tokens"),
        cache_read_tokens=_first_count(given, "cached_tokens"),
        reasoning_tokens=_first_count(written, "reasoning_tokens"),
    )


def _first_count(counts: Any, *names: str) -> int | None:
    found = (counts.get(name) for name in names) if isinstance(counts, Mapping) else ()
    return next((count for count in found if isinstance(count, int)), None)


def _iter_error_candidates(payload: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the parts of a body that may be an error, the likeliest first."""
    error = payload.get("error")
    if isinstance(error, Mapping) and error:
        yield cast("Mapping[str, Any]", error)
    elif isinstance(error, str) and error:
        yield {"message": error}
    elif isinstance(error, list) and error:
        yield {"message": str(error)[:_MAX_MESSAGE_CHARS]}
    if payload.get("object") == "error" or payload.get("type") == "error":
        yield payload
    for choice in _iter_choices(payload):
        inner = choice.get("error")
        if isinstance(inner, Mapping) and inner:
            yield cast("Mapping[str, Any]", inner)
        elif choice.get("finish_reason") == "error":
            yield {"message": "the provider ended the answer with finish_reason 'error'", "code": 502}
    if not payload.keys() & _RESPONSE_KEYS and "detail" in payload:
        yield {**payload, "message": payload["detail"]}


def _iter_choices(payload: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    choices = payload.get("choices")
    for choice in cast("list[Any]", choices) if isinstance(choices, list) else ():
        if isinstance(choice, Mapping):
            yield cast("Mapping[str, Any]", choice)


def _build_error(error: Mapping[str, Any], payload: Mapping[str, Any]) -> LM15Error:
    words = {str(error[name]).casefold(): str(error[name]) for name in _CODE_KEYS if isinstance(error.get(name), str)}
    words.update({str(payload[name]).casefold(): str(payload[name]) for name in _CODE_KEYS
                  if isinstance(payload.get(name), str) and payload[name] != "error"})  # fmt: skip
    status = _find_status(error) or (_find_status(payload) if payload is not error else None)
    message = _find_message(error, payload)
    code = next(iter(words.values()), None) or (str(status) if status else None)
    if words.keys() & _FILTERS:
        return AnswerRefusedError(message, code="content_filter", provider_code=code, status=status)
    by_word = next(((kind, usual) for kind, usual, known in _KINDS if words.keys() & known), None)
    # An exhausted quota and a prompt that is too long come with statuses that mean other errors, too.
    if by_word is not None and (status is None or by_word[0] in (BillingError, ContextLengthError)):
        kind, usual = by_word
        return kind(message, provider_code=code, status=status or usual, retry_after=_find_retry_after(error, payload))
    if status is not None:
        return _error_class_for_status(status)(
            message, provider_code=code, status=status, retry_after=_find_retry_after(error, payload)
        )
    # An error without any code is the provider's failure: a rejection would give a reason.
    return ServerError(message, provider_code=code)


def _error_class_for_status(status: int) -> type[ProviderError]:
    kinds: dict[int, type[ProviderError]] = {
        401: AuthError, 402: BillingError, 403: AuthError, 404: UnsupportedModelError, 408: LMTimeout,
        425: ServerError, 429: RateLimitError, 504: LMTimeout, 524: LMTimeout,
    }  # fmt: skip
    return kinds.get(status, ServerError if status >= 500 else InvalidRequestError)


def _find_status(body: Mapping[str, Any]) -> int | None:
    for name in _STATUS_KEYS:
        value = body.get(name)
        if isinstance(value, str) and value.strip().isdecimal() and len(value) <= 4:
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
            return value
    return None


def _find_message(error: Mapping[str, Any], payload: Mapping[str, Any]) -> str:
    for candidate in (error.get("message"), error.get("detail"), payload.get("message"), error.get("msg")):
        if isinstance(candidate, str) and candidate.strip():
            return candidate[:_MAX_MESSAGE_CHARS]
    return "the provider broke the answer off with " + json.dumps(dict(error), default=str)[:_MAX_MESSAGE_CHARS]


def _find_retry_after(error: Mapping[str, Any], payload: Mapping[str, Any]) -> float | None:
    for candidate in (error.get("retry_after"), payload.get("retry_after")):
        if isinstance(candidate, int | float) and not isinstance(candidate, bool) and 0 <= candidate <= 86_400:
            return float(candidate)
    return None
