"""The OpenAPI description of the HTTP server, generated from the protobuf messages so that it can't diverge."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from snakepit_bridge.costs.report import COST_DIMENSIONS, MAX_SINCE_S
from snakepit_bridge.protocol.targeting import MAX_ATTRIBUTE_CHARACTERS, MAX_ATTRIBUTES, MAX_KEY_BYTES
from snakepit_bridge.releases.scores import MAX_COMMENT_BYTES, MAX_TEXT, NAME_PATTERN
from workers.gateway.call import MAX_ID_LENGTH, MAX_NAME_LENGTH, MAX_TIMEOUT_S, MIN_TIMEOUT_S
from workers.gateway.http.transcoding import REQUIRED, enum_names, fields_of, is_json, json_name
from workers.gateway.operations import Operation

Schema = dict[str, Any]

_SUMMARIES = {
    "Publish": "Commit all changes as one revision, or none, and return its token.",
    "Rollback": "Commit the state at a past token, label or `latest` as a new revision.",
    "History": "Return the latest changes, newest first.",
    "Submit": "Enqueue a prediction and return its id.",
    "SubmitBatch": "Enqueue many predictions; the outcomes are in the order of the requests.",
    "Await": "Wait until a prediction ends or `timeout_s` expires, and return its state; 0 waits as long as allowed.",
    "Stream": "Stream the progress of a prediction as server-sent events; the last one carries the result.",
    "Cancel": "Cancel a prediction unless it has ended.",
    "Register": "Build a program from its spec, and store the spec as the next version.",
    "Score": "Score a prediction that has ended; a score of the same name and scorer is replaced.",
    "Start": "Publish a session's candidate, or stage a program's version for a label, and return the rollout.",
    "Show": "Return how a target's rollout stands, or how the last one ended: both arms, guards and events.",
    "Advance": "Begin the next stage at once, or promote the candidate after the last one.",
    "Pause": "Pause a rollout: the candidate keeps its share, and no other stage begins.",
    "Resume": "Resume a paused rollout.",
    "Abort": "Roll a rollout back: everybody stays with the baseline.",
    "Report": "Return what the predictions that ended lately cost, by program, session, revision or LM profile.",
}
# Of methods that several services have.
_SERVICE_SUMMARIES = {
    ("Variables", "Get"): (
        "Return the current snapshot, the first at or past `at_least`, or exactly the one at `exactly`."
    ),
    ("Predictions", "Get"): "Return the state of a prediction without waiting.",
    ("Programs", "Get"): "Return a program by `name`, `name@label` or `name:version`, with its spec.",
    ("Programs", "List"): "Return programs sorted by name, in pages.",
    ("Variables", "Watch"): "Stream the current snapshot, then each newer one, as server-sent events.",
    ("Rollouts", "Watch"): "Stream the events of a target's rollouts, and then each new one, as server-sent events.",
    ("Rollouts", "List"): "Return what is staged now, by target.",
    ("Scores", "List"): "Return a prediction's scores, by name and scorer.",
}
_SCALARS: dict[int, Schema] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number"},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
    FieldDescriptor.TYPE_UINT64: {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
}
# Schemas of fields by name, where the type isn't enough. Values of variables are checked by their own constraints.
_TOKEN: Schema = {"type": "string", "pattern": r"^(\d{1,19}\.\d{1,19})?$"}
_SECONDS: Schema = {"type": "number", "minimum": 0, "maximum": 1e9}
_OBJECT: Schema = {"type": "object"}
_REFERENCE: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_NAME_LENGTH}
_NAME: Schema = {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"}
_FIELD_SCHEMAS: dict[str, Schema] = {
    "at_least": _TOKEN,
    "exactly": _TOKEN,
    "expected": _TOKEN,
    "after": _TOKEN,
    "to": {
        "type": "string",
        "pattern": r"^(\d{1,19}\.\d{1,19}|[A-Za-z][A-Za-z0-9_-]{0,63})$",
        "description": "A token, a label or `latest`.",
    },
    "wait_s": _SECONDS,
    "timeout_s": _SECONDS,
    "deadline_s": _SECONDS,
    "max_staleness_s": _SECONDS,
    "outage": {
        "type": "string",
        "pattern": r"^(fail|serve_stale\(\d+(\.\d+)?\))?$",
        "description": "How to proceed while the store or the session's authority is unavailable.",
    },
    "priority": {"type": "integer", "minimum": 0, "maximum": 9},
    "program": _REFERENCE,
    "inputs_json": _OBJECT,
    "outputs_json": _OBJECT,
    "spec_json": _OBJECT,
    "values_json": _OBJECT,
    "policy_json": _OBJECT,
    "constraints_json": _OBJECT,
}
# Schemas of a field in one message only; below, rules on several fields of a message.
_MESSAGE_FIELD_SCHEMAS: dict[tuple[str, str], Schema] = {
    ("RegisterRequest", "name"): _NAME,
    ("CostReportRequest", "by"): {"type": "string", "enum": ["", *COST_DIMENSIONS]},
    ("CostReportRequest", "since_s"): {"type": "number", "minimum": 0, "maximum": MAX_SINCE_S},
    ("RegisterRequest", "labels"): _NAME,
    ("ScoreRequest", "name"): {"type": "string", "pattern": f"^{NAME_PATTERN}$"},
    ("ScoreRequest", "value_json"): {
        "anyOf": [
            {"type": "number", "minimum": 0, "maximum": 1},
            {"type": "boolean"},
            {"type": "string", "minLength": 1, "maxLength": MAX_TEXT},
        ]
    },
    ("ScoreRequest", "comment"): {"type": "string", "maxLength": MAX_COMMENT_BYTES},
    ("ScoreRequest", "scorer"): {"type": "string", "maxLength": MAX_TEXT},
    ("SubmitRequest", "key"): {"type": "string", "maxLength": MAX_KEY_BYTES},
    ("SubmitRequest", "attributes_json"): {
        "type": "object",
        "maxProperties": MAX_ATTRIBUTES,
        "propertyNames": {"minLength": 1, "maxLength": MAX_ATTRIBUTE_CHARACTERS},
        "additionalProperties": {"type": ["string", "number", "boolean"], "maxLength": MAX_ATTRIBUTE_CHARACTERS},
    },
    ("WatchRolloutRequest", "after"): {"type": "string", "pattern": r"^(\d{1,19}-\d{1,19})?$"},
    ("StreamRequest", "after"): {"type": "string", "pattern": r"^(\d{1,19}-\d{1,19})?$"},
}
_MESSAGE_RULES: dict[str, Schema] = {
    "Change": {"oneOf": [{"required": ["value"]}, {"required": ["delete"], "properties": {"delete": {"const": True}}}]},
    "PublishRequest": {
        "anyOf": [
            {"properties": {"changes": {"minItems": 1}}},
            {"required": ["replace"], "properties": {"replace": {"const": True}}},
        ]
    },
    "SubmitRequest": {
        "not": {
            "required": ["at_least", "exactly"],
            "properties": {"at_least": {"minLength": 1}, "exactly": {"minLength": 1}},
        }
    },
    "SubmitBatchRequest": {"properties": {"requests": {"minItems": 1}}},
}
_TIMESTAMP = "google.protobuf.Timestamp"
_ERROR_DESCRIPTIONS = {
    "400": "The request is malformed, or a value is invalid.",
    "401": "The token is missing or unknown.",
    "403": "The token doesn't grant this operation.",
    "404": "The session, variable, prediction or program doesn't exist.",
    "409": "The request conflicts with the state of the session, program or key.",
    "410": "The store no longer has that revision.",
    "413": "The request is too large.",
    "429": "Too many calls or streams; retry after the seconds in `retry-after`.",
    "500": "The gateway or the Elixir server failed.",
    "501": "The Elixir server doesn't support the operation.",
    "503": "Redis or the Elixir server is unavailable, or the gateway is shutting down.",
    "504": "The operation exceeded the client's timeout.",
}


_ERROR_SCHEMA: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["kind", "message", "fields"],
            "properties": {
                "kind": {"type": "string", "description": "The error's class."},
                "message": {"type": "string"},
                "fields": {"type": "array", "description": "The error's fields in order.", "items": {}},
                "status": {"type": "string", "description": "The corresponding gRPC status."},
            },
        }
    },
}


def build_description(operations: Iterable[Operation], *, requires_token: bool = True) -> Schema:
    """Return the OpenAPI 3.1 document of the operations.

    Args:
        operations: the operations.
        requires_token: whether calls need a bearer token.
    """
    schemas: dict[str, Schema] = {"Refusal": _ERROR_SCHEMA}
    paths: dict[str, Schema] = {}
    for operation in operations:
        method, path = operation.http
        paths.setdefault(path, {})[method.lower()] = _operation_object(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "DSPex fleet",
            "version": "1",
            "description": "Variables, predictions, scores, programs, rollouts and costs.",
        },
        **({"security": [{"bearer": []}]} if requires_token else {}),
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation_object(operation: Operation, schemas: dict[str, Schema]) -> Schema:
    method, path = operation.http
    in_path = re.findall(r"{(\w+)}", path)
    fields = fields_of(operation.request.DESCRIPTOR)
    in_query = [field for field in fields if json_name(field) not in in_path and method == "GET"]
    body = _message_schema(operation.request.DESCRIPTOR, schemas, without=in_path, constrained=True)
    document: Schema = {
        "operationId": f"{operation.service}_{operation.method}",
        "tags": [operation.service],
        "summary": _SERVICE_SUMMARIES.get((operation.service, operation.method)) or _SUMMARIES[operation.method],
        "description": f"Needs the scope `{operation.scope}`.",
        "parameters": [
            *map(_path_parameter, in_path),
            *(_query_parameter(field, schemas) for field in in_query),
            _TIMEOUT,
        ],
        "responses": {"200": _success_response(operation, schemas), **_error_responses()},
    }
    if method == "POST":
        document["requestBody"] = {
            "required": bool([field for field in fields if json_name(field) not in in_path]),
            "content": {"application/json": {"schema": body}},
        }
    return document


_TIMEOUT: Schema = {
    "name": "request-timeout",
    "in": "header",
    "description": "Seconds that the client waits.",
    "schema": {"type": "number", "minimum": MIN_TIMEOUT_S, "maximum": MAX_TIMEOUT_S},
}


def _path_parameter(name: str) -> Schema:
    schema = {**_REFERENCE, "maxLength": MAX_ID_LENGTH} if name == "id" else _REFERENCE
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _query_parameter(field: FieldDescriptor, schemas: dict[str, Schema]) -> Schema:
    return {"name": json_name(field), "in": "query", "schema": _field_schema(field, schemas), "explode": True}


def _success_response(operation: Operation, schemas: dict[str, Schema]) -> Schema:
    schema = _message_reference(operation.response.DESCRIPTOR, schemas)
    if operation.unary is not None:
        return {"description": "OK", "content": {"application/json": {"schema": schema}}}
    name = operation.response.DESCRIPTOR.name
    summary = f"Events whose data is a {name} as JSON; an event `error` with a Refusal ends the stream."
    return {"description": summary, "content": {"text/event-stream": {"schema": _event_schema(schema)}}}


def _event_schema(data: Schema) -> Schema:
    content = {"anyOf": [data, {"$ref": "#/components/schemas/Refusal"}]}
    json = {"type": "string", "contentMediaType": "application/json", "contentSchema": content}
    event = {"enum": ["message", "error"], "description": "`message` by default."}
    about = "The token of a snapshot or the position of a chunk; send it as `last-event-id` to resume after it."
    event_id = {"type": "string", "description": about}
    return {"type": "object", "required": ["data"], "properties": {"data": json, "event": event, "id": event_id}}


def _error_responses() -> dict[str, Schema]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}
    return {status: {"description": about, "content": content} for status, about in _ERROR_DESCRIPTIONS.items()}


def _message_reference(descriptor: Descriptor, schemas: dict[str, Schema]) -> Schema:
    if descriptor.name not in schemas:
        schemas[descriptor.name] = {}  # a message may contain its own type
        schemas[descriptor.name] = _message_schema(descriptor, schemas)
    return {"$ref": f"#/components/schemas/{descriptor.name}"}


def _message_schema(
    descriptor: Descriptor, schemas: dict[str, Schema], without: Iterable[str] = (), *, constrained: bool = False
) -> Schema:
    # An invalid request in a batch is reported in its place, so it doesn't make the batch invalid.
    constrained = constrained or descriptor.name != "SubmitRequest"
    properties = {
        json_name(field): _field_schema(field, schemas, constrained=constrained) for field in fields_of(descriptor)
    }
    included = {name: schema for name, schema in properties.items() if name not in without}
    required = {"required": list(REQUIRED[descriptor.name])} if descriptor.name in REQUIRED else {}
    rules = {} if descriptor.name not in _MESSAGE_RULES else {"allOf": [_MESSAGE_RULES[descriptor.name]]}
    return {"type": "object", "properties": included, "additionalProperties": False, **required, **rules}


def _field_schema(field: FieldDescriptor, schemas: dict[str, Schema], *, constrained: bool = True) -> Schema:
    holder: Any = field.containing_type
    own = _MESSAGE_FIELD_SCHEMAS.get((holder.name, field.name)) or (
        None if field.message_type else _FIELD_SCHEMAS.get(field.name)
    )
    schema = own if own and constrained else _value_schema(field, schemas)
    return {"type": "array", "items": schema} if field.is_repeated else schema


def _value_schema(field: FieldDescriptor, schemas: dict[str, Schema]) -> Schema:
    if is_json(field):
        return {"description": 'Any JSON; NaN and the infinities are "NaN", "Infinity" and "-Infinity".'}
    if field.message_type is not None:
        if field.message_type.full_name == _TIMESTAMP:
            return {"type": "string", "format": "date-time"}
        return _message_reference(field.message_type, schemas)
    if field.enum_type is not None:
        return {"type": "string", "enum": list(enum_names(field.enum_type))}
    return dict(_SCALARS[field.type])
