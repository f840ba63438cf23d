"""JSON schemas of request fields whose type doesn't say enough, for the OpenAPI description."""

from __future__ import annotations

from typing import Any

from snakepit_bridge.audit.entries import AuditOutcome
from snakepit_bridge.costs.report import COST_DIMENSIONS, MAX_SINCE_S
from snakepit_bridge.datasets.search import TOKEN_PATTERN
from snakepit_bridge.delivery.activity import KEPT_S
from snakepit_bridge.evaluations.record_store import PLACE_PATTERN
from snakepit_bridge.protocol.targeting import MAX_ATTRIBUTE_CHARACTERS, MAX_ATTRIBUTES, MAX_KEY_BYTES
from snakepit_bridge.releases.scores import MAX_COMMENT_BYTES, MAX_TEXT, NAME_PATTERN
from snakepit_bridge.rollouts.looks import MAX_LOOKS
from workers.gateway.call import MAX_ID_LENGTH, MAX_NAME_LENGTH

Schema = dict[str, Any]

# Schemas of fields by name, where the type isn't enough. Values of variables are checked by their own constraints.
_TOKEN: Schema = {"type": "string", "pattern": r"^(\d{1,19}\.\d{1,19})?$"}
_SECONDS: Schema = {"type": "number", "minimum": 0, "maximum": 1e9}
_ABOVE_ZERO: Schema = {"type": "number", "exclusiveMinimum": 0}
_REASON: Schema = {"type": "string", "pattern": r"\S"}
_ID: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_ID_LENGTH}
_TEXT: Schema = {"type": "string"}
_RETENTION_S: Schema = {"type": "number", "minimum": 0.001, "maximum": 1e9}
_SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
_OBJECT: Schema = {"type": "object"}
_LIST: Schema = {"type": "array", "items": {"type": "object"}}
REFERENCE: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_NAME_LENGTH}
_NAME: Schema = {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"}
_POSITION: Schema = {"type": "string", "pattern": r"^(\d{1,19}-\d{1,19})?$"}
_OFFSET: Schema = {"type": "string", "pattern": r"^[0-9]{0,12}$"}
_REVISION: Schema = {
    "type": "string",
    "pattern": r"^(\d{1,19}\.\d{1,19}|[A-Za-z][A-Za-z0-9_-]{0,63})$",
    "description": "A token, a label or `latest`.",
}
_OPTIONAL_REVISION: Schema = {**_REVISION, "pattern": r"^(\d{1,19}\.\d{1,19}|[A-Za-z][A-Za-z0-9_-]{0,63})?$"}
FIELD_SCHEMAS: dict[str, Schema] = {
    "at_least": _TOKEN,
    "exactly": _TOKEN,
    "expected": _TOKEN,
    "after": _TOKEN,
    "to": _REVISION,
    "at": _OPTIONAL_REVISION,
    "label": {"type": "string", "pattern": r"^[A-Za-z][A-Za-z0-9_-]{0,63}$", "not": {"const": "latest"}},
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
    "program": REFERENCE,
    "target": REFERENCE,
    "inputs_json": _OBJECT,
    "outputs_json": _OBJECT,
    "spec_json": _OBJECT,
    "values_json": _OBJECT,
    "policy_json": _OBJECT,
    "constraints_json": _OBJECT,
    "lineage_json": _OBJECT,
    "completions_json": _LIST,
    "trace_json": _LIST,
}
# Schemas of a field in one message only; below, rules on several fields of a message.
MESSAGE_FIELD_SCHEMAS: dict[tuple[str, str], Schema] = {
    ("RegisterRequest", "name"): _NAME,
    ("ShowRolloutRequest", "looks"): {"type": "integer", "minimum": 0, "maximum": MAX_LOOKS},
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
    ("LMCall", "messages_json"): _LIST,
    ("LMCall", "answer_json"): _OBJECT,
    ("ScoreRequest", "comment"): {"type": "string", "maxLength": MAX_COMMENT_BYTES},
    ("ScoreRequest", "scorer"): {"type": "string", "maxLength": MAX_TEXT},
    ("SubmitRequest", "key"): {"type": "string", "maxLength": MAX_KEY_BYTES},
    ("SubmitRequest", "attributes_json"): {
        "type": "object",
        "maxProperties": MAX_ATTRIBUTES,
        "propertyNames": {"minLength": 1, "maxLength": MAX_ATTRIBUTE_CHARACTERS},
        "additionalProperties": {"type": ["string", "number", "boolean"], "maxLength": MAX_ATTRIBUTE_CHARACTERS},
    },
    ("AddJudgeRequest", "inputs_json"): {"type": "object", "additionalProperties": {"type": "string"}},
    ("AddDatasetRequest", "name"): _NAME,
    ("AddDatasetRequest", "examples_json"): _LIST,
    ("AddFromPredictionsRequest", "name"): _NAME,
    ("AddFromPredictionsRequest", "under_token"): _TOKEN,
    ("AddFromPredictionsRequest", "since_s"): _SECONDS,
    ("Check", "name"): REFERENCE,
    ("Check", "schema_json"): {
        "type": "object",
        "description": "A JSON schema of the object of all values.",
    },
    ("Check", "function"): {**REFERENCE, "description": "A function that every publishing process has registered."},
    ("DeclareChecksRequest", "remove"): REFERENCE,
    ("ListExperimentsRequest", "target"): {
        "type": "string",
        "maxLength": MAX_NAME_LENGTH,
        "description": "All that the token covers if empty.",
    },
    ("StepRolloutRequest", "reason"): _REASON,
    ("DecideExperimentRequest", "reason"): _REASON,
    ("StopExperimentRequest", "reason"): _REASON,
    ("DiffDatasetsRequest", "before"): REFERENCE,
    ("DiffDatasetsRequest", "after"): REFERENCE,
    ("CompareEvaluationsRequest", "baseline"): _ID,
    ("CompareEvaluationsRequest", "candidate"): _ID,
    ("GetStatusRequest", "since_s"): {"type": "number", "minimum": 0, "maximum": KEPT_S},
    ("SearchPredictionsRequest", "program"): _TEXT,
    ("SearchPredictionsRequest", "since_s"): _SECONDS,
    ("SearchPredictionsRequest", "page_token"): {"type": "string", "pattern": f"^({TOKEN_PATTERN})?$"},
    ("ListDatasetExamplesRequest", "page_token"): _OFFSET,
    ("ListEvaluationExamplesRequest", "page_token"): _OFFSET,
    ("ListEvaluationsRequest", "program"): _TEXT,
    ("ListEvaluationsRequest", "page_token"): {"type": "string", "pattern": f"^({PLACE_PATTERN})?$"},
    ("ListAuditRequest", "outcome"): {"type": "string", "enum": ["", *AuditOutcome]},
    ("ListAuditRequest", "since_s"): _SECONDS,
    ("ListAuditRequest", "before"): _POSITION,
    ("AuditEntry", "before"): _TEXT,
    ("AuditEntry", "after"): _TEXT,
    ("DiffRequest", "before"): _REVISION,
    ("DiffRequest", "after"): _OPTIONAL_REVISION,
    ("ListVersionsRequest", "name"): _NAME,
    ("SetProgramLabelRequest", "name"): _NAME,
    ("SetProgramLabelRequest", "label"): _NAME,
    ("SetRetentionRequest", "age_s"): _RETENTION_S,
    ("SetRetentionRequest", "ttl_s"): _RETENTION_S,
    ("ExperimentArm", "weight"): {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    ("StartEvaluationRequest", "dataset"): REFERENCE,
    ("StartEvaluationRequest", "metric"): REFERENCE,
    ("StartEvaluationRequest", "metric_options_json"): _OBJECT,
    ("StartEvaluationRequest", "exactly"): _OPTIONAL_REVISION,
    ("StartOptimizationRequest", "trainset"): REFERENCE,
    ("StartOptimizationRequest", "metric"): REFERENCE,
    ("StartOptimizationRequest", "optimizer"): REFERENCE,
    ("StartOptimizationRequest", "max_predictions"): {"type": "integer", "minimum": 1},
    ("StartOptimizationRequest", "max_usd"): _ABOVE_ZERO,
    ("StartOptimizationRequest", "max_s"): _ABOVE_ZERO,
    ("StartOptimizationRequest", "options_json"): _OBJECT,
    ("StartOptimizationRequest", "compile_options_json"): _OBJECT,
    ("StartOptimizationRequest", "label"): {"type": "string", "pattern": r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,99})?$"},
    ("StartExperimentRequest", "from_share"): _SHARE,
    ("StartExperimentRequest", "to_share"): _SHARE,
    ("StartExperimentRequest", "segment_json"): {
        "type": "object",
        "description": "A JSON schema for the attributes of the requests that take part.",
    },
    ("ExperimentEventsRequest", "after"): _POSITION,
    ("WatchRolloutRequest", "after"): _POSITION,
    ("StreamRequest", "after"): _POSITION,
}
MESSAGE_RULES: dict[str, Schema] = {
    "Change": {"oneOf": [{"required": ["value"]}, {"required": ["delete"], "properties": {"delete": {"const": True}}}]},
    "Check": {"oneOf": [{"required": ["schema"]}, {"required": ["function"]}]},
    "DeclareChecksRequest": {
        "anyOf": [
            {"required": ["checks"], "properties": {"checks": {"minItems": 1}}},
            {"required": ["remove"], "properties": {"remove": {"minItems": 1, "uniqueItems": True}}},
        ]
    },
    "PublishRequest": {
        "anyOf": [
            {"properties": {"changes": {"minItems": 1}}},
            {"required": ["replace"], "properties": {"replace": {"const": True}}},
        ]
    },
    "StartRolloutRequest": {"oneOf": [{"required": ["values"]}, {"required": ["version"]}]},
    "SubmitRequest": {
        "not": {
            "required": ["at_least", "exactly"],
            "properties": {"at_least": {"minLength": 1}, "exactly": {"minLength": 1}},
        }
    },
    "SubmitBatchRequest": {"properties": {"requests": {"minItems": 1}}},
}
