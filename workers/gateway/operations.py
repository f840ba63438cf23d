"""The table of the gateway's operations: each method with its scope, messages and HTTP route.

Both servers are built from it, so that they offer the same operations for the same tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

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
from workers.gateway.operation import Operation, ServiceOperations


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
    operation = ServiceOperations("Variables", "/v1/sessions/{session}")
    return (
        operation(
            "Publish",
            GrantScope.PUBLISH,
            pb.PublishRequest,
            pb.PublishResponse,
            "POST",
            "/publish",
            unary=service.publish,
        ),
        operation("Get", GrantScope.READ, pb.GetVariablesRequest, pb.Snapshot, "GET", "/variables", unary=service.get),
        operation("Watch", GrantScope.READ, pb.WatchRequest, pb.Snapshot, "GET", "/watch", streaming=service.watch),
        operation(
            "History", GrantScope.READ, pb.HistoryRequest, pb.HistoryResponse, "GET", "/history", unary=service.history
        ),
        operation("Diff", GrantScope.READ, pb.DiffRequest, pb.DiffResponse, "GET", "/diff", unary=service.diff),
        operation(
            "Rollback",
            GrantScope.PUBLISH,
            pb.RollbackRequest,
            pb.PublishResponse,
            "POST",
            "/rollback",
            unary=service.rollback,
        ),
    )


def _session_operations(service: Sessions) -> tuple[Operation, ...]:
    operation = ServiceOperations("Sessions", "/v1/sessions")
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
    operation = ServiceOperations("Predictions", "/v1/predictions")
    predict = GrantScope.PREDICT

    by_id = pb.PredictionRequest
    return (
        operation("Submit", predict, pb.SubmitRequest, pb.Handle, "POST", unary=service.submit),
        operation(
            "SubmitBatch", predict, pb.SubmitBatchRequest, pb.SubmitBatchResponse, "POST", "/batch",
            unary=service.submit_batch, weight=_batch_size,
        ),
        operation("Get", predict, by_id, pb.Prediction, "GET", "/{id}", unary=service.get),
        operation("Await", predict, pb.AwaitRequest, pb.Prediction, "GET", "/{id}/await", unary=service.wait),
        operation(
            "Stream", predict, pb.StreamRequest, pb.PredictionEvent, "GET", "/{id}/stream",
            streaming=service.stream,
        ),
        operation("Cancel", predict, by_id, pb.Prediction, "POST", "/{id}/cancel", unary=service.cancel),
        operation("Replay", predict, pb.ReplayRequest, pb.ReplayResponse, "POST", "/{id}/replay", unary=service.replay),
        operation(
            "Search", predict, pb.SearchPredictionsRequest, pb.SearchPredictionsResponse, "GET",
            unary=search.search,
        ),
        operation(
            "ListLMCalls", GrantScope.CONTENT, pb.ListLMCallsRequest, pb.ListLMCallsResponse, "GET", "/{id}/lm-calls",
            unary=service.list_lm_calls,
        ),
    )  # fmt: skip


def _score_operations(service: PredictionScores) -> tuple[Operation, ...]:
    operation = ServiceOperations("Scores", "/v1/predictions/{id}/scores")
    predict = GrantScope.PREDICT
    return (
        operation("Score", predict, pb.ScoreRequest, pb.PredictionScore, "POST", unary=service.score),
        operation("List", predict, pb.ListScoresRequest, pb.ListScoresResponse, "GET", unary=service.list),
    )


def _rollout_operations(service: GatewayRollouts) -> tuple[Operation, ...]:
    operation = ServiceOperations("Rollouts", "/v1/rollouts")
    release = GrantScope.RELEASE

    # A session's name may contain slashes, so that something stands behind it in each path.
    by_target = "/{target}"
    step = pb.StepRolloutRequest
    return (
        operation("Start", release, pb.StartRolloutRequest, pb.Rollout, "POST", unary=service.start),
        operation("List", release, pb.ListRolloutsRequest, pb.ListRolloutsResponse, "GET", unary=service.list),
        operation(
            "Show", release, pb.ShowRolloutRequest, pb.RolloutReport, "GET", f"{by_target}/report", unary=service.show
        ),
        operation(
            "Watch",
            release,
            pb.WatchRolloutRequest,
            pb.RolloutEvent,
            "GET",
            f"{by_target}/watch",
            streaming=service.watch,
        ),
        operation("Advance", release, step, pb.Rollout, "POST", f"{by_target}/advance", unary=service.advance),
        operation("Pause", release, step, pb.Rollout, "POST", f"{by_target}/pause", unary=service.pause),
        operation("Resume", release, step, pb.Rollout, "POST", f"{by_target}/resume", unary=service.resume),
        operation("Abort", release, step, pb.Rollout, "POST", f"{by_target}/abort", unary=service.abort),
    )


def _experiment_operations(service: GatewayExperiments) -> tuple[Operation, ...]:
    operation = ServiceOperations("Experiments", "/v1/experiments")
    release = GrantScope.RELEASE

    by_target, by_name = "/{target}", "/{target}/{experiment}"
    return (
        operation("Start", release, pb.StartExperimentRequest, pb.Experiment, "POST", unary=service.start),
        operation("List", release, pb.ListExperimentsRequest, pb.ListExperimentsResponse, "GET", unary=service.list),
        operation(
            "Show", release, pb.ShowExperimentRequest, pb.ExperimentReport, "GET", f"{by_name}/report",
            unary=service.show,
        ),
        operation(
            "Events", release, pb.ExperimentEventsRequest, pb.ExperimentEventsResponse, "GET", f"{by_target}/events",
            unary=service.events,
        ),
        operation(
            "Decide", release, pb.DecideExperimentRequest, pb.Experiment, "POST", f"{by_name}/decide",
            unary=service.decide,
        ),
        operation(
            "Stop", release, pb.StopExperimentRequest, pb.Experiment, "POST", f"{by_name}/stop",
            unary=service.stop,
        ),
    )  # fmt: skip


def _program_operations(service: Programs) -> tuple[Operation, ...]:
    operation = ServiceOperations("Programs", "/v1/programs")
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
    operation = ServiceOperations("Judges", "/v1/judges")
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
    operation = ServiceOperations("DeadLetters", "/v1/dead-letters")
    admin = GrantScope.ADMIN

    by_id = pb.DeadLetterRequest
    return (
        operation("List", admin, pb.ListDeadLettersRequest, pb.ListDeadLettersResponse, "GET", "", unary=service.list),
        operation("Get", admin, by_id, pb.DeadLetter, "GET", "/{id}", unary=service.get),
        operation("Retry", admin, by_id, pb.DeadLetter, "POST", "/{id}/retry", unary=service.retry),
        operation("Drop", admin, by_id, pb.DropDeadLetterResponse, "POST", "/{id}/drop", unary=service.drop),
    )


def _dataset_operations(service: GatewayDatasets) -> tuple[Operation, ...]:
    operation = ServiceOperations("Datasets", "/v1/datasets")
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
    operation = ServiceOperations("Recorders", "/v1/recorders")
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
    operation = ServiceOperations("Evaluations", "/v1/evaluations")
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
    operation = ServiceOperations("Jobs", "/v1/jobs")
    read, by_id = GrantScope.READ, pb.JobRequest
    return (
        operation("List", read, pb.ListJobsRequest, pb.ListJobsResponse, "GET", "", unary=service.list),
        operation("Get", read, by_id, pb.Job, "GET", "/{id}", unary=service.get),
        operation("Watch", read, by_id, pb.Job, "GET", "/{id}/watch", streaming=service.watch),
        operation("Cancel", GrantScope.RELEASE, by_id, pb.Job, "POST", "/{id}/cancel", unary=service.cancel),
    )
