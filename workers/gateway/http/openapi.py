"""The OpenAPI description of the HTTP server, generated from the protobuf messages so that it can't diverge."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from workers.gateway.call import MAX_ID_LENGTH, MAX_TIMEOUT_S, MIN_TIMEOUT_S
from workers.gateway.http import ofrep_openapi
from workers.gateway.http.field_schemas import FIELD_SCHEMAS, MESSAGE_FIELD_SCHEMAS, MESSAGE_RULES, REFERENCE, Schema
from workers.gateway.http.summaries import SUMMARIES
from workers.gateway.http.transcoding import (
    REQUIRED,
    enum_names,
    fields_of,
    find_map_value,
    is_json,
    json_name,
    needs_body,
)
from workers.gateway.operation import Operation

_SCALARS: dict[int, Schema] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number"},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
    FieldDescriptor.TYPE_UINT64: {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
}
_TIMESTAMP = "google.protobuf.Timestamp"
_ERROR_DESCRIPTIONS = {
    "400": "The request is malformed, or a value is invalid.",
    "401": "The token is missing or unknown.",
    "403": "The token doesn't grant this operation.",
    "404": "The session, variable, label, prediction, program, experiment or dead letter doesn't exist.",
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
    """Return the OpenAPI 3.1 document of the operations, and of the OFREP endpoints.

    Args:
        operations: the operations.
        requires_token: whether calls need a bearer token.
    """
    schemas: dict[str, Schema] = {"Refusal": _ERROR_SCHEMA, **ofrep_openapi.SCHEMAS}
    paths = ofrep_openapi.describe_ofrep(_TIMEOUT, requires_token=requires_token)
    for operation in operations:
        method, path = operation.http
        paths.setdefault(path, {})[method.lower()] = _operation_object(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "DSPex fleet",
            "version": "1",
            "description": "Variables, sessions, predictions, programs, rollouts, experiments, judges, costs, "
            "datasets and evaluations.",
        },
        **({"security": [{"bearer": []}]} if requires_token else {}),
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}, **ofrep_openapi.SCHEMES},
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
        "summary": SUMMARIES[operation.name],
        "description": f"Needs the scope `{operation.scope}`.",
        "parameters": [
            *(_path_parameter(operation.request.DESCRIPTOR, name) for name in in_path),
            *(_query_parameter(field, schemas) for field in in_query),
            _TIMEOUT,
        ],
        "responses": {"200": _success_response(operation, schemas), **_error_responses()},
    }
    if method == "POST":
        document["requestBody"] = {
            "required": needs_body(operation.request, in_path),
            "content": {"application/json": {"schema": body}},
        }
    return document


_TIMEOUT: Schema = {
    "name": "request-timeout",
    "in": "header",
    "description": "Seconds that the client waits.",
    "schema": {"type": "number", "minimum": MIN_TIMEOUT_S, "maximum": MAX_TIMEOUT_S},
}


def _path_parameter(request: Descriptor, name: str) -> Schema:
    default = {**REFERENCE, "maxLength": MAX_ID_LENGTH} if name == "id" else REFERENCE
    schema = MESSAGE_FIELD_SCHEMAS.get((request.name, name)) or FIELD_SCHEMAS.get(name) or default
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _query_parameter(field: FieldDescriptor, schemas: dict[str, Schema]) -> Schema:
    holder: Any = field.containing_type
    name = json_name(field)
    required = {"required": True} if name in REQUIRED.get(holder.name, ()) else {}
    return {"name": name, "in": "query", **required, "schema": _field_schema(field, schemas), "explode": True}


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
    rules = {} if descriptor.name not in MESSAGE_RULES else {"allOf": [MESSAGE_RULES[descriptor.name]]}
    return {"type": "object", "properties": included, "additionalProperties": False, **required, **rules}


def _field_schema(field: FieldDescriptor, schemas: dict[str, Schema], *, constrained: bool = True) -> Schema:
    holder: Any = field.containing_type
    own = MESSAGE_FIELD_SCHEMAS.get((holder.name, field.name)) or (
        None if field.message_type else FIELD_SCHEMAS.get(field.name)
    )
    if (held := find_map_value(field)) is not None:
        return {"type": "object", "additionalProperties": _value_schema(held, schemas)}
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
