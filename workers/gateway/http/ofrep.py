"""OFREP, the OpenFeature Remote Evaluation Protocol, version 0.3: a session's variables as feature flags.

With it any OpenFeature SDK reads variables, assigned to the arms of rollouts like predictions of the same key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from snakepit_bridge.exceptions import SessionNameError
from snakepit_bridge.protocol.messages import DEFAULT_SESSION, check_session
from snakepit_bridge.protocol.targeting import Attributes, check_key
from snakepit_bridge.variables.codec import encode_json, parse
from workers.gateway.access.authentication import GrantScope
from workers.gateway.access.gate import RequestGate
from workers.gateway.api.flags import AssignedFlags, FlagContext, Flags, Refusal, flag_fields
from workers.gateway.errors import http_status, log_failure, retry_after, to_message
from workers.gateway.http.requests import JSON, RequestReceiver, parse_timeout
from workers.gateway.operation import Operation

PATH = "/ofrep/v1/evaluate/flags"
SESSION_ATTRIBUTE = "session"
"""The attribute of an evaluation context that names the session."""

_NOT_FOUND = "FLAG_NOT_FOUND"


class OfrepEndpoints:
    """The endpoints of the protocol.

    Args:
        gate: admits calls.
        receiver: receives requests.
        flags: evaluates flags.
    """

    def __init__(self, gate: RequestGate, receiver: RequestReceiver, flags: Flags) -> None:
        self._gate = gate
        self._receiver = receiver
        self._operation = Operation(
            "Flags", "Evaluate", GrantScope.READ, FlagContext, AssignedFlags, ("POST", PATH),
            unary=flags.assign, session_in_body=True,
        )  # fmt: skip

    def routes(self) -> list[Route]:
        """Return the routes of the protocol."""
        return [
            # Names of variables may contain slashes.
            Route(f"{PATH}/{{key:path}}", self._guarded(self._evaluate_one), methods=["POST"]),
            Route(PATH, self._guarded(self._evaluate_all), methods=["POST"]),
        ]

    async def _evaluate_one(self, request: Request) -> Response:
        key = request.path_params["key"]
        flags = await self._assign(request)
        if isinstance(flags, Refusal):
            return _json_response({"key": key, "errorCode": flags.code, "errorDetails": flags.details}, 400)
        outcome = flags.evaluate(key)
        status = 200 if not isinstance(outcome, Refusal) else 404 if outcome.code == _NOT_FOUND else 400
        return _json_response(flag_fields(key, flags, outcome), status)

    async def _evaluate_all(self, request: Request) -> Response:
        flags = await self._assign(request)
        if isinstance(flags, Refusal):
            return _json_response({"errorCode": flags.code, "errorDetails": flags.details}, 400)
        headers = {"etag": f'"{flags.tag}"'}
        if _matches(request.headers.get("if-none-match", ""), flags.tag):
            return Response(status_code=304, headers=headers)
        evaluated = [flag_fields(name, flags, flags.evaluate(name)) for name in flags.names]
        return _json_response({"flags": evaluated, "metadata": flags.metadata}, 200, headers)

    async def _assign(self, request: Request) -> AssignedFlags | Refusal:
        """Return the flags for the context of a request, or why it has none."""
        grant = self._receiver.authorize(request, self._operation, _read_token(request))
        timeout_s = parse_timeout(request)
        context = _parse_context(await self._receiver.read_body(request))
        self._receiver.trust(request)
        if isinstance(context, Refusal):
            return context
        return await self._gate.call(self._operation, context, grant, timeout_s, request.headers)

    def _guarded(self, evaluate: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                self._receiver.check_sender(request)
                return await evaluate(request)
            except ClientDisconnect:
                return Response(status_code=499)
            except Exception as exc:  # noqa: BLE001 - reported to the client, and logged if unexpected
                log_failure(exc, request.url.path)
                headers = dict(retry_after(exc))
                if http_status(exc) == 401:
                    headers["www-authenticate"] = "Bearer"
                return _json_response({"errorDetails": to_message(exc).message}, http_status(exc), headers)

        return endpoint


def _read_token(request: Request) -> str | None:
    """Return the authorization of a request; the protocol also has a header for API keys."""
    api_key = request.headers.get("x-api-key")
    authorization = request.headers.get("authorization")
    return f"Bearer {api_key}" if authorization is None and api_key is not None else authorization


def _parse_context(body: bytes) -> FlagContext | Refusal:
    try:
        document = parse(body)
    except (ValueError, RecursionError) as exc:
        return Refusal("PARSE_ERROR", f"The body isn't JSON: {exc}.")
    if not isinstance(document, dict):
        return Refusal("PARSE_ERROR", "The body must be a JSON object with the field 'context'.")
    context = cast("dict[str, Any]", document).get("context", {})
    if not isinstance(context, dict):
        return Refusal("INVALID_CONTEXT", "The context must be a JSON object.")
    given = cast("dict[str, Any]", context)
    if given.get("targetingKey") in (None, ""):
        return Refusal("TARGETING_KEY_MISSING", "The context needs 'targetingKey', which the assignment sticks to.")
    try:
        session = check_session(given.get(SESSION_ATTRIBUTE, DEFAULT_SESSION))
        return FlagContext(session, check_key(given["targetingKey"]), _read_attributes(given))
    except (SessionNameError, ValueError) as exc:
        return Refusal("INVALID_CONTEXT", str(exc))


def _read_attributes(context: Mapping[str, Any]) -> Attributes:
    """Return the attributes that a prediction could have too; a context may have others, such as objects."""
    own = ("targetingKey", SESSION_ATTRIBUTE)
    return {
        name: value
        for name, value in context.items()
        if name not in own and isinstance(value, str | int | float | bool)
    }


def _matches(header: str, tag: str) -> bool:
    """Check whether a header ``If-None-Match`` names a tag; some clients send it without quotes."""
    candidates = (part.strip().removeprefix("W/").strip('"') for part in header.split(","))
    return any(candidate in (tag, "*") for candidate in candidates)


def _json_response(fields: Mapping[str, Any], status: int, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encode_json(fields), status, dict(headers or {}), JSON)
