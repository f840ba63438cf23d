"""What a gateway does, as one table: each method with the scope that it needs and the way that HTTP has to it.

gRPC and HTTP both work through it, so that neither can do what the other can't, nor without the same token.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from workers.gateway.access.authentication import GrantScope
from workers.gateway.api.predictions import Predictions
from workers.gateway.api.programs import Programs
from workers.gateway.api.variables import Variables
from workers.gateway.call import ClientCall

PACKAGE = "dspex.fleet.v1"

Unary = Callable[[Any, ClientCall], Coroutine[Any, Any, Message]]
Streaming = Callable[[Any, ClientCall], AsyncGenerator[Message]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method.

    Attributes:
        service, method: its names in ``dspex.fleet.v1``.
        scope: what a token must grant.
        request, response: its messages.
        http: HTTP method and path; fields of the request stand in braces.
        unary, streaming: what it does, one of the two.
        weight: how many calls a request counts as.
    """

    service: str
    method: str
    scope: GrantScope
    request: type[Any]
    response: type[Any]
    http: tuple[str, str]
    unary: Unary | None = None
    streaming: Streaming | None = None
    weight: Callable[[Any], int] = lambda _: 1

    @property
    def path(self) -> str:
        """Its path in gRPC."""
        return f"/{PACKAGE}.{self.service}/{self.method}"


def operations(variables: Variables, predictions: Predictions, programs: Programs) -> tuple[Operation, ...]:
    """Returns all operations."""
    return (*_variables(variables), *_predictions(predictions), *_programs(programs))


def _size(request: pb.SubmitBatchRequest) -> int:
    return max(1, len(request.requests))


def _variables(does: Variables) -> tuple[Operation, ...]:
    def made(
        method: str, scope: GrantScope, request: type[Any], response: type[Any], verb: str, **how: Any
    ) -> Operation:
        path = f"/v1/sessions/{{session}}/{'variables' if method == 'Get' else method.lower()}"
        return Operation("Variables", method, scope, request, response, (verb, path), **how)

    return (
        made("Publish", GrantScope.PUBLISH, pb.PublishRequest, pb.PublishResponse, "POST", unary=does.publish),
        made("Get", GrantScope.READ, pb.GetVariablesRequest, pb.Snapshot, "GET", unary=does.get),
        made("Watch", GrantScope.READ, pb.WatchRequest, pb.Snapshot, "GET", streaming=does.watch),
        made("History", GrantScope.READ, pb.HistoryRequest, pb.HistoryResponse, "GET", unary=does.history),
        made("Rollback", GrantScope.PUBLISH, pb.RollbackRequest, pb.PublishResponse, "POST", unary=does.rollback),
    )


def _predictions(does: Predictions) -> tuple[Operation, ...]:
    def made(method: str, request: type[Any], response: type[Any], verb: str, path: str = "", **how: Any) -> Operation:
        return Operation(
            "Predictions", method, GrantScope.PREDICT, request, response, (verb, f"/v1/predictions{path}"), **how
        )

    asked = pb.PredictionRequest
    return (
        made("Submit", pb.SubmitRequest, pb.Handle, "POST", unary=does.submit),
        made(
            "SubmitBatch", pb.SubmitBatchRequest, pb.SubmitBatchResponse, "POST", "/batch",
            unary=does.submit_batch, weight=_size,
        ),
        made("Get", asked, pb.Prediction, "GET", "/{id}", unary=does.get),
        made("Await", pb.AwaitRequest, pb.Prediction, "GET", "/{id}/await", unary=does.wait),
        made("Stream", pb.StreamRequest, pb.PredictionEvent, "GET", "/{id}/stream", streaming=does.stream),
        made("Cancel", asked, pb.Prediction, "POST", "/{id}/cancel", unary=does.cancel),
    )  # fmt: skip


def _programs(does: Programs) -> tuple[Operation, ...]:
    def made(
        method: str, scope: GrantScope, request: type[Any], response: type[Any], verb: str, path: str = "", **how: Any
    ) -> Operation:
        return Operation("Programs", method, scope, request, response, (verb, f"/v1/programs{path}"), **how)

    return (
        made("Register", GrantScope.ADMIN, pb.RegisterRequest, pb.Program, "POST", unary=does.register),
        made("List", GrantScope.READ, pb.ListProgramsRequest, pb.ListProgramsResponse, "GET", unary=does.list),
        made("Get", GrantScope.READ, pb.GetProgramRequest, pb.Program, "GET", "/{reference}", unary=does.get),
    )
