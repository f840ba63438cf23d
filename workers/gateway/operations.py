"""The table of the gateway's operations: each method with its scope, messages and HTTP route.

Both servers are built from it, so that they offer the same operations for the same tokens.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from workers.gateway.access.authentication import GrantScope
from workers.gateway.api.costs import CostReports, count_days
from workers.gateway.api.predictions import Predictions
from workers.gateway.api.programs import Programs
from workers.gateway.api.rollouts import GatewayRollouts
from workers.gateway.api.scores import PredictionScores
from workers.gateway.api.variables import Variables
from workers.gateway.call import ClientCall

PACKAGE = "dspex.fleet.v1"

Unary = Callable[[Any, ClientCall], Coroutine[Any, Any, Any]]
Streaming = Callable[[Any, ClientCall], AsyncGenerator[Message]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        service, method: its names in ``dspex.fleet.v1``.
        scope: the scope that a token must grant.
        request, response: the classes of its messages.
        http: HTTP method and path, with request fields in braces.
        unary, streaming: the implementation, exactly one of the two.
        weight: returns how many calls a request counts as.
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
        """The gRPC path."""
        return f"/{PACKAGE}.{self.service}/{self.method}"


def build_operations(
    variables: Variables,
    predictions: Predictions,
    programs: Programs,
    costs: CostReports,
    scores: PredictionScores,
    rollouts: GatewayRollouts,
) -> tuple[Operation, ...]:
    """Return all operations."""
    return (
        *_variable_operations(variables),
        *_prediction_operations(predictions),
        *_score_operations(scores),
        *_program_operations(programs),
        *_rollout_operations(rollouts),
        Operation(
            "Costs", "Report", GrantScope.READ, pb.CostReportRequest, pb.CostReport, ("GET", "/v1/costs"),
            unary=costs.report, weight=count_days,
        ),
    )  # fmt: skip


def _batch_size(request: pb.SubmitBatchRequest) -> int:
    return max(1, len(request.requests))


def _variable_operations(service: Variables) -> tuple[Operation, ...]:
    def operation(
        method: str, scope: GrantScope, request: type[Any], response: type[Any], verb: str, **options: Any
    ) -> Operation:
        path = f"/v1/sessions/{{session}}/{'variables' if method == 'Get' else method.lower()}"
        return Operation("Variables", method, scope, request, response, (verb, path), **options)

    return (
        operation("Publish", GrantScope.PUBLISH, pb.PublishRequest, pb.PublishResponse, "POST", unary=service.publish),
        operation("Get", GrantScope.READ, pb.GetVariablesRequest, pb.Snapshot, "GET", unary=service.get),
        operation("Watch", GrantScope.READ, pb.WatchRequest, pb.Snapshot, "GET", streaming=service.watch),
        operation("History", GrantScope.READ, pb.HistoryRequest, pb.HistoryResponse, "GET", unary=service.history),
        operation(
            "Rollback", GrantScope.PUBLISH, pb.RollbackRequest, pb.PublishResponse, "POST", unary=service.rollback
        ),
    )


def _prediction_operations(service: Predictions) -> tuple[Operation, ...]:
    def operation(
        method: str, request: type[Any], response: type[Any], verb: str, path: str = "", **options: Any
    ) -> Operation:
        return Operation(
            "Predictions", method, GrantScope.PREDICT, request, response, (verb, f"/v1/predictions{path}"), **options
        )

    by_id = pb.PredictionRequest
    return (
        operation("Submit", pb.SubmitRequest, pb.Handle, "POST", unary=service.submit),
        operation(
            "SubmitBatch", pb.SubmitBatchRequest, pb.SubmitBatchResponse, "POST", "/batch",
            unary=service.submit_batch, weight=_batch_size,
        ),
        operation("Get", by_id, pb.Prediction, "GET", "/{id}", unary=service.get),
        operation("Await", pb.AwaitRequest, pb.Prediction, "GET", "/{id}/await", unary=service.wait),
        operation("Stream", pb.StreamRequest, pb.PredictionEvent, "GET", "/{id}/stream", streaming=service.stream),
        operation("Cancel", by_id, pb.Prediction, "POST", "/{id}/cancel", unary=service.cancel),
    )  # fmt: skip


def _score_operations(service: PredictionScores) -> tuple[Operation, ...]:
    scope, path = GrantScope.PREDICT, "/v1/predictions/{id}/scores"
    return (
        Operation("Scores", "Score", scope, pb.ScoreRequest, pb.PredictionScore, ("POST", path), unary=service.score),
        Operation(
            "Scores", "List", scope, pb.ListScoresRequest, pb.ListScoresResponse, ("GET", path), unary=service.list
        ),
    )


def _rollout_operations(service: GatewayRollouts) -> tuple[Operation, ...]:
    def operation(
        method: str, request: type[Any], response: type[Any], verb: str, path: str = "", **options: Any
    ) -> Operation:
        http = (verb, f"/v1/rollouts{path}")
        return Operation("Rollouts", method, GrantScope.RELEASE, request, response, http, **options)

    # A session's name may contain slashes, so that something stands behind it in each path.
    by_target = "/{target}"
    step = pb.StepRolloutRequest
    return (
        operation("Start", pb.StartRolloutRequest, pb.Rollout, "POST", unary=service.start),
        operation("List", pb.ListRolloutsRequest, pb.ListRolloutsResponse, "GET", unary=service.list),
        operation("Show", pb.ShowRolloutRequest, pb.RolloutReport, "GET", f"{by_target}/report", unary=service.show),
        operation(
            "Watch", pb.WatchRolloutRequest, pb.RolloutEvent, "GET", f"{by_target}/watch", streaming=service.watch
        ),
        operation("Advance", step, pb.Rollout, "POST", f"{by_target}/advance", unary=service.advance),
        operation("Pause", step, pb.Rollout, "POST", f"{by_target}/pause", unary=service.pause),
        operation("Resume", step, pb.Rollout, "POST", f"{by_target}/resume", unary=service.resume),
        operation("Abort", step, pb.Rollout, "POST", f"{by_target}/abort", unary=service.abort),
    )


def _program_operations(service: Programs) -> tuple[Operation, ...]:
    def operation(
        method: str,
        scope: GrantScope,
        request: type[Any],
        response: type[Any],
        verb: str,
        path: str = "",
        **options: Any,
    ) -> Operation:
        return Operation("Programs", method, scope, request, response, (verb, f"/v1/programs{path}"), **options)

    return (
        operation("Register", GrantScope.ADMIN, pb.RegisterRequest, pb.Program, "POST", unary=service.register),
        operation("List", GrantScope.READ, pb.ListProgramsRequest, pb.ListProgramsResponse, "GET", unary=service.list),
        operation("Get", GrantScope.READ, pb.GetProgramRequest, pb.Program, "GET", "/{reference}", unary=service.get),
    )
