"""The table of the gateway's operations: each method with its scope, messages and HTTP route.

Both servers are built from it, so that they offer the same operations for the same tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from workers.gateway.access.authentication import GrantScope
from workers.gateway.api.approvals import GatewayApprovals, GatewayProtections
from workers.gateway.api.audit import GatewayAudit
from workers.gateway.api.costs import CostReports, count_days
from workers.gateway.api.datasets import GatewayDatasets
from workers.gateway.api.dead_letters import GatewayDeadLetters
from workers.gateway.api.evaluations import GatewayEvaluations, GatewayOptimizations
from workers.gateway.api.experiments import GatewayExperiments
from workers.gateway.api.jobs import GatewayJobs
from workers.gateway.api.judges import GatewayJudges
from workers.gateway.api.prediction_search import GatewayPredictionSearch
from workers.gateway.api.predictions import Predictions
from workers.gateway.api.programs import Programs
from workers.gateway.api.recorders import GatewayRecorders
from workers.gateway.api.rollouts import GatewayRollouts
from workers.gateway.api.scores import PredictionScores
from workers.gateway.api.sessions import Sessions
from workers.gateway.api.status import GatewayStatus
from workers.gateway.api.variables import Variables
from workers.gateway.control_operations import build_control_operations
from workers.gateway.operation import Operation


@dataclass(frozen=True, slots=True)
class Services:
    """The implementations of all operations, by service."""

    variables: Variables
    sessions: Sessions
    predictions: Predictions
    prediction_search: GatewayPredictionSearch
    scores: PredictionScores
    programs: Programs
    rollouts: GatewayRollouts
    experiments: GatewayExperiments
    judges: GatewayJudges
    dead_letters: GatewayDeadLetters
    audit: GatewayAudit
    protections: GatewayProtections
    approvals: GatewayApprovals
    costs: CostReports
    datasets: GatewayDatasets
    recorders: GatewayRecorders
    evaluations: GatewayEvaluations
    optimizations: GatewayOptimizations
    jobs: GatewayJobs
    status: GatewayStatus


def build_operations(services: Services) -> tuple[Operation, ...]:
    """Return all operations."""
    return (
        *_variable_operations(services.variables),
        *_session_operations(services.sessions),
        *_prediction_operations(services.predictions, services.prediction_search),
        *_score_operations(services.scores),
        *_program_operations(services.programs),
        *_rollout_operations(services.rollouts),
        *_experiment_operations(services.experiments),
        *_judge_operations(services.judges),
        *_dead_letter_operations(services.dead_letters),
        *build_control_operations(services.audit, services.protections, services.approvals),
        *_dataset_operations(services.datasets),
        *_recorder_operations(services.recorders),
        *_evaluation_operations(services.evaluations, services.optimizations),
        *_job_operations(services.jobs),
        Operation(
            "Costs", "Report", GrantScope.READ, pb.CostReportRequest, pb.CostReport, ("GET", "/v1/costs"),
            unary=services.costs.report, weight=count_days,
        ),
        Operation(
            "Status", "Get", GrantScope.READ, pb.GetStatusRequest, pb.FleetStatus, ("GET", "/v1/status"),
            unary=services.status.get,
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
        operation("Diff", GrantScope.READ, pb.DiffRequest, pb.DiffResponse, "GET", unary=service.diff),
        operation(
            "Rollback", GrantScope.PUBLISH, pb.RollbackRequest, pb.PublishResponse, "POST", unary=service.rollback
        ),
    )


def _session_operations(service: Sessions) -> tuple[Operation, ...]:
    def operation(
        method: str,
        scope: GrantScope,
        request: type[Any],
        response: type[Any],
        verb: str,
        path: str,
        **options: Any,
    ) -> Operation:
        return Operation("Sessions", method, scope, request, response, (verb, f"/v1/sessions{path}"), **options)

    read, release, control = GrantScope.READ, GrantScope.RELEASE, GrantScope.CONTROL
    by_name, checks, label = pb.SessionRequest, pb.ListChecksResponse, "/{session}/labels/{label}"
    return (
        operation("List", read, pb.ListSessionsRequest, pb.ListSessionsResponse, "GET", "", unary=service.list),
        operation("Get", read, by_name, pb.Session, "GET", "/{session}/state", unary=service.get),
        operation(
            "ListLabels", read, by_name, pb.ListLabelsResponse, "GET", "/{session}/labels", unary=service.list_labels
        ),
        operation(
            "SetLabel", release, pb.SetLabelRequest, pb.Label, "POST", "/{session}/labels", unary=service.set_label
        ),
        operation(
            "RemoveLabel", release, pb.RemoveLabelRequest, pb.RemoveLabelResponse, "POST", f"{label}/remove",
            unary=service.remove_label,
        ),
        operation("Promote", release, pb.PromoteRequest, pb.Label, "POST", f"{label}/promote", unary=service.promote),
        operation("ListChecks", read, by_name, checks, "GET", "/{session}/checks", unary=service.list_checks),
        operation(
            "DeclareChecks", control, pb.DeclareChecksRequest, checks, "POST", "/{session}/checks",
            unary=service.declare_checks,
        ),
        operation(
            "GetRetention", read, by_name, pb.Retention, "GET", "/{session}/retention", unary=service.get_retention
        ),
        operation(
            "SetRetention", control, pb.SetRetentionRequest, pb.Retention, "POST", "/{session}/retention",
            unary=service.set_retention,
        ),
    )  # fmt: skip


def _prediction_operations(service: Predictions, search: GatewayPredictionSearch) -> tuple[Operation, ...]:
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
        operation("Replay", pb.ReplayRequest, pb.ReplayResponse, "POST", "/{id}/replay", unary=service.replay),
        operation("Search", pb.SearchPredictionsRequest, pb.SearchPredictionsResponse, "GET", unary=search.search),
        Operation(
            "Predictions", "ListLMCalls", GrantScope.CONTENT, pb.ListLMCallsRequest, pb.ListLMCallsResponse,
            ("GET", "/v1/predictions/{id}/lm-calls"), unary=service.list_lm_calls,
        ),
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


def _experiment_operations(service: GatewayExperiments) -> tuple[Operation, ...]:
    def operation(
        method: str, request: type[Any], response: type[Any], verb: str, path: str = "", **options: Any
    ) -> Operation:
        http = (verb, f"/v1/experiments{path}")
        return Operation("Experiments", method, GrantScope.RELEASE, request, response, http, **options)

    by_target, by_name = "/{target}", "/{target}/{experiment}"
    return (
        operation("Start", pb.StartExperimentRequest, pb.Experiment, "POST", unary=service.start),
        operation("List", pb.ListExperimentsRequest, pb.ListExperimentsResponse, "GET", unary=service.list),
        operation(
            "Show", pb.ShowExperimentRequest, pb.ExperimentReport, "GET", f"{by_name}/report", unary=service.show
        ),
        operation(
            "Events", pb.ExperimentEventsRequest, pb.ExperimentEventsResponse, "GET", f"{by_target}/events",
            unary=service.events,
        ),
        operation(
            "Decide", pb.DecideExperimentRequest, pb.Experiment, "POST", f"{by_name}/decide", unary=service.decide
        ),
        operation("Stop", pb.StopExperimentRequest, pb.Experiment, "POST", f"{by_name}/stop", unary=service.stop),
    )  # fmt: skip


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
        operation(
            "ListVersions", GrantScope.READ, pb.ListVersionsRequest, pb.ListVersionsResponse, "GET", "/{name}/versions",
            unary=service.list_versions,
        ),
        operation(
            "SetLabel", GrantScope.RELEASE, pb.SetProgramLabelRequest, pb.Program, "POST", "/{name}/labels",
            unary=service.set_label,
        ),
    )  # fmt: skip


def _judge_operations(service: GatewayJudges) -> tuple[Operation, ...]:
    def operation(
        method: str, scope: GrantScope, request: type[Any], response: type[Any], verb: str, path: str, **options: Any
    ) -> Operation:
        return Operation("Judges", method, scope, request, response, (verb, f"/v1/judges{path}"), **options)

    read, control = GrantScope.READ, GrantScope.CONTROL
    return (
        operation("List", read, pb.ListJudgesRequest, pb.ListJudgesResponse, "GET", "", unary=service.list),
        operation("Add", control, pb.AddJudgeRequest, pb.Judge, "POST", "", unary=service.add),
        operation(
            "Remove", control, pb.RemoveJudgeRequest, pb.RemoveJudgeResponse, "POST", "/{judged}/{name}/remove",
            unary=service.remove,
        ),
    )  # fmt: skip


def _dead_letter_operations(service: GatewayDeadLetters) -> tuple[Operation, ...]:
    def operation(
        method: str, request: type[Any], response: type[Any], verb: str, path: str, **options: Any
    ) -> Operation:
        http = (verb, f"/v1/dead-letters{path}")
        return Operation("DeadLetters", method, GrantScope.ADMIN, request, response, http, **options)

    by_id = pb.DeadLetterRequest
    return (
        operation("List", pb.ListDeadLettersRequest, pb.ListDeadLettersResponse, "GET", "", unary=service.list),
        operation("Get", by_id, pb.DeadLetter, "GET", "/{id}", unary=service.get),
        operation("Retry", by_id, pb.DeadLetter, "POST", "/{id}/retry", unary=service.retry),
        operation("Drop", by_id, pb.DropDeadLetterResponse, "POST", "/{id}/drop", unary=service.drop),
    )


def _dataset_operations(service: GatewayDatasets) -> tuple[Operation, ...]:
    def operation(
        method: str, scope: GrantScope, request: type[Any], response: type[Any], verb: str, path: str, **options: Any
    ) -> Operation:
        return Operation("Datasets", method, scope, request, response, (verb, f"/v1/datasets{path}"), **options)

    read, release = GrantScope.READ, GrantScope.RELEASE
    reference, versions = pb.DatasetRequest, pb.ListDatasetVersionsResponse
    return (
        operation("List", read, pb.ListDatasetsRequest, pb.ListDatasetsResponse, "GET", "", unary=service.list),
        operation("Get", read, reference, pb.Dataset, "GET", "/{reference}", unary=service.get),
        operation(
            "ListVersions", read, pb.ListDatasetVersionsRequest, versions, "GET", "/{name}/versions",
            unary=service.list_versions,
        ),
        operation(
            "ListExamples", read, pb.ListDatasetExamplesRequest, pb.ListDatasetExamplesResponse, "GET",
            "/{reference}/examples", unary=service.list_examples,
        ),
        operation("Add", release, pb.AddDatasetRequest, pb.Dataset, "POST", "", unary=service.add),
        operation(
            "AddFromPredictions", release, pb.AddFromPredictionsRequest, pb.Dataset, "POST", "/from-predictions",
            unary=service.add_from_predictions,
        ),
        operation("Diff", read, pb.DiffDatasetsRequest, pb.DatasetDiff, "GET", "/{before}/diff", unary=service.diff),
        operation("Remove", release, reference, versions, "POST", "/{reference}/remove", unary=service.remove),
    )  # fmt: skip


def _recorder_operations(service: GatewayRecorders) -> tuple[Operation, ...]:
    def operation(
        method: str, scope: GrantScope, request: type[Any], response: type[Any], verb: str, path: str, **options: Any
    ) -> Operation:
        return Operation("Recorders", method, scope, request, response, (verb, f"/v1/recorders{path}"), **options)

    read, control = GrantScope.READ, GrantScope.CONTROL
    return (
        operation("List", read, pb.ListRecordersRequest, pb.ListRecordersResponse, "GET", "", unary=service.list),
        operation("Set", control, pb.SetRecorderRequest, pb.Recorder, "POST", "", unary=service.set),
        operation(
            "Remove", control, pb.RemoveRecorderRequest, pb.RemoveRecorderResponse, "POST", "/{program}/remove",
            unary=service.remove,
        ),
    )  # fmt: skip


def _evaluation_operations(
    evaluations: GatewayEvaluations, optimizations: GatewayOptimizations
) -> tuple[Operation, ...]:
    def operation(
        method: str, scope: GrantScope, request: type[Any], response: type[Any], verb: str, path: str, **options: Any
    ) -> Operation:
        return Operation("Evaluations", method, scope, request, response, (verb, f"/v1/evaluations{path}"), **options)

    read, release = GrantScope.READ, GrantScope.RELEASE
    return (
        operation("Start", release, pb.StartEvaluationRequest, pb.Job, "POST", "", unary=evaluations.start),
        operation(
            "List", read, pb.ListEvaluationsRequest, pb.ListEvaluationsResponse, "GET", "", unary=evaluations.list
        ),
        operation("Get", read, pb.EvaluationRequest, pb.Evaluation, "GET", "/{id}", unary=evaluations.get),
        operation(
            "ListExamples", read, pb.ListEvaluationExamplesRequest, pb.ListEvaluationExamplesResponse, "GET",
            "/{id}/examples", unary=evaluations.list_examples,
        ),
        operation(
            "Compare", read, pb.CompareEvaluationsRequest, pb.EvaluationComparison, "GET", "/{baseline}/compare",
            unary=evaluations.compare,
        ),
        Operation(
            "Optimizations", "Start", GrantScope.ADMIN, pb.StartOptimizationRequest, pb.Job,
            ("POST", "/v1/optimizations"), unary=optimizations.start,
        ),
    )  # fmt: skip


def _job_operations(service: GatewayJobs) -> tuple[Operation, ...]:
    def operation(
        method: str, scope: GrantScope, request: type[Any], response: type[Any], verb: str, path: str, **options: Any
    ) -> Operation:
        return Operation("Jobs", method, scope, request, response, (verb, f"/v1/jobs{path}"), **options)

    read, by_id = GrantScope.READ, pb.JobRequest
    return (
        operation("List", read, pb.ListJobsRequest, pb.ListJobsResponse, "GET", "", unary=service.list),
        operation("Get", read, by_id, pb.Job, "GET", "/{id}", unary=service.get),
        operation("Watch", read, by_id, pb.Job, "GET", "/{id}/watch", streaming=service.watch),
        operation("Cancel", GrantScope.RELEASE, by_id, pb.Job, "POST", "/{id}/cancel", unary=service.cancel),
    )
