"""The OpenAPI description of the OFREP endpoints, which aren't operations of the proto."""

from __future__ import annotations

from typing import Any

from snakepit_bridge.protocol.targeting import MAX_KEY_BYTES
from workers.gateway.http.field_schemas import REFERENCE, Schema
from workers.gateway.http.ofrep import PATH

SCHEMES: dict[str, Schema] = {"apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"}}
"""How these endpoints take a token, beside ``authorization``."""

_METADATA: Schema = {
    "type": "object",
    "description": "The session, the token of its revision and, if the key was assigned, the rollout and its stage.",
    "additionalProperties": {"type": ["string", "number", "boolean"]},
}
SCHEMAS: dict[str, Schema] = {
    "EvaluationRequest": {
        "type": "object",
        "required": ["context"],
        "properties": {"context": {"$ref": "#/components/schemas/EvaluationContext"}},
    },
    "EvaluationContext": {
        "type": "object",
        "required": ["targetingKey"],
        "properties": {
            "targetingKey": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_BYTES},
            "session": {**REFERENCE, "description": "Whose variables the flags are; `default` if absent."},
        },
        "description": "Other attributes that are text, numbers or booleans count for experiments on a segment.",
    },
    "Flag": {
        "type": "object",
        "required": ["key"],
        "properties": {
            "key": {"type": "string"},
            "value": {},
            "reason": {"enum": ["STATIC", "SPLIT"]},
            "variant": {"type": "string"},
            "metadata": _METADATA,
            "errorCode": {"type": "string", "description": "Instead of a value, where it can't be evaluated."},
            "errorDetails": {"type": "string"},
        },
    },
    "FlagRefusal": {
        "type": "object",
        "required": ["errorDetails"],
        "properties": {
            "key": {"type": "string"},
            "errorCode": {"type": "string", "description": "OpenFeature's; absent where the protocol has none."},
            "errorDetails": {"type": "string"},
        },
    },
}
_REFUSALS = {
    "400": "The body or its context isn't valid.",
    "401": "The token is missing or unknown.",
    "403": "The token doesn't grant `read` for the session.",
    "404": "The session has no such variable.",
    "413": "The request is too large.",
    "415": "The content type isn't JSON.",
    "429": "Too many calls; retry after the seconds in `retry-after`.",
    "503": "Redis is unavailable, or the gateway is shutting down.",
    "504": "The evaluation exceeded the client's timeout.",
}


def describe_ofrep(timeout: Schema, *, requires_token: bool) -> dict[str, Schema]:
    """Return the path items of the endpoints.

    Args:
        timeout: the parameter by which a client says how long it waits.
        requires_token: whether calls need a token.
    """
    key = {"name": "key", "in": "path", "required": True, "schema": REFERENCE, "description": "A variable's name."}
    tag = {
        "name": "if-none-match",
        "in": "header",
        "schema": {"type": "string"},
        "description": "The `etag` of an earlier answer, to get 304 until a flag changes.",
    }
    evaluated: Schema = {
        "type": "object",
        "required": ["flags", "metadata"],
        "properties": {"flags": {"type": "array", "items": _reference("Flag")}, "metadata": _METADATA},
    }
    all_flags = {**_answer(evaluated), "headers": {"etag": {"schema": {"type": "string"}}}}
    security: Schema = {"security": [{"bearer": []}, {"apiKey": []}]} if requires_token else {}
    common: Schema = {
        "tags": ["Flags"],
        "description": "OpenFeature Remote Evaluation Protocol 0.3. Needs the scope `read`.",
        "requestBody": {"required": True, "content": _json(_reference("EvaluationRequest"))},
        **security,
    }
    return {
        PATH: {
            "post": {
                "operationId": "Flags_EvaluateAll",
                "summary": "Evaluate all variables of a session as feature flags.",
                "parameters": [tag, timeout],
                "responses": {"200": all_flags, "304": {"description": "No flag has changed."}, **_refusals()},
                **common,
            }
        },
        f"{PATH}/{{key}}": {
            "post": {
                "operationId": "Flags_Evaluate",
                "summary": "Evaluate one variable of a session as a feature flag.",
                "parameters": [key, timeout],
                "responses": {"200": _answer(_reference("Flag")), **_refusals()},
                **common,
            }
        },
    }


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _answer(schema: Schema) -> Schema:
    return {"description": "OK", "content": _json(schema)}


def _refusals() -> dict[str, Schema]:
    content = _json(_reference("FlagRefusal"))
    return {status: {"description": about, "content": content} for status, about in _REFUSALS.items()}
