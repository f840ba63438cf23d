"""The OpenAPI description of the HTTP side, made from the messages themselves, so that it can't drift from them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from workers.gateway.operations import Operation
from workers.gateway.transcoding import enum_names, fields_of, is_json, key_of

Schema = dict[str, Any]

_ABOUT = {
    "Publish": "Commits all changes as one revision, or none, and returns its token.",
    "Rollback": "Commits the state at a past token, label or `latest` as a new revision.",
    "Watch": "Streams the current snapshot, then each newer one, as server-sent events.",
    "History": "Returns the latest changes, newest first.",
    "Submit": "Enqueues a prediction and returns its id.",
    "SubmitBatch": "Enqueues many; each outcome stands in the place of its request.",
    "Await": "Returns the prediction when it has ended, or as it stands when `timeout_s` is over; 0 for the longest.",
    "Stream": "Streams what becomes of a prediction as server-sent events; the last one carries the result.",
    "Cancel": "Cancels a prediction; one that has ended stays as it is.",
    "Register": "Builds a program from its spec, and stores that as the next version.",
    "List": "Returns programs by name, page by page.",
}
_GET = {
    "Variables": "Returns the current snapshot, the first at or past `at_least`, or exactly the one at `exactly`.",
    "Predictions": "Returns how a prediction stands, at once.",
    "Programs": "Returns a program by `name`, `name@label` or `name:version`, with its spec.",
}
_SCALARS: dict[int, Schema] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number"},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
    FieldDescriptor.TYPE_UINT64: {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
}
_MOMENT = "google.protobuf.Timestamp"
_REFUSALS = {
    "400": "The request is malformed, or a value is refused.",
    "401": "The token is missing or unknown.",
    "403": "The token doesn't grant this.",
    "404": "What it names isn't there.",
    "409": "The session, program or key is in another state than the request needs.",
    "410": "The store can't give that revision any more.",
    "413": "The request is too large.",
    "429": "Too many calls or streams; `retry-after` says when to try again.",
    "500": "The gateway or the Elixir server failed.",
    "501": "The Elixir server doesn't serve that.",
    "503": "Redis or the Elixir server is away, or the gateway is being stopped.",
    "504": "It took longer than the client waits.",
}


def description(operations: Iterable[Operation]) -> Schema:
    """Returns the OpenAPI 3.1 document of the operations."""
    schemas: dict[str, Schema] = {}
    paths: dict[str, Schema] = {}
    for operation in operations:
        method, path = operation.http
        paths.setdefault(path, {})[method.lower()] = _operation(operation, schemas)
    _add(schemas, Descriptor_of_error())
    return {
        "openapi": "3.1.0",
        "info": {"title": "DSPex fleet", "version": "1", "description": "Variables, predictions and programs."},
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Refusal": _REFUSAL},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }
