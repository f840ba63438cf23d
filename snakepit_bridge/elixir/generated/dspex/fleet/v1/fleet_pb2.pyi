import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VariableType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VARIABLE_TYPE_UNSPECIFIED: _ClassVar[VariableType]
    VARIABLE_TYPE_FLOAT: _ClassVar[VariableType]
    VARIABLE_TYPE_INTEGER: _ClassVar[VariableType]
    VARIABLE_TYPE_STRING: _ClassVar[VariableType]
    VARIABLE_TYPE_BOOLEAN: _ClassVar[VariableType]
    VARIABLE_TYPE_CHOICE: _ClassVar[VariableType]
    VARIABLE_TYPE_MODULE: _ClassVar[VariableType]
    VARIABLE_TYPE_EMBEDDING: _ClassVar[VariableType]
    VARIABLE_TYPE_TENSOR: _ClassVar[VariableType]

class PredictionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PREDICTION_STATE_UNSPECIFIED: _ClassVar[PredictionState]
    PREDICTION_STATE_QUEUED: _ClassVar[PredictionState]
    PREDICTION_STATE_RUNNING: _ClassVar[PredictionState]
    PREDICTION_STATE_SUCCEEDED: _ClassVar[PredictionState]
    PREDICTION_STATE_FAILED: _ClassVar[PredictionState]
    PREDICTION_STATE_CANCELLED: _ClassVar[PredictionState]

class RolloutState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLLOUT_STATE_UNSPECIFIED: _ClassVar[RolloutState]
    ROLLOUT_STATE_NEW: _ClassVar[RolloutState]
    ROLLOUT_STATE_RUNNING: _ClassVar[RolloutState]
    ROLLOUT_STATE_PAUSED: _ClassVar[RolloutState]
    ROLLOUT_STATE_ROLLED_BACK: _ClassVar[RolloutState]
    ROLLOUT_STATE_PROMOTED: _ClassVar[RolloutState]

class RolloutEventKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLLOUT_EVENT_KIND_UNSPECIFIED: _ClassVar[RolloutEventKind]
    ROLLOUT_EVENT_KIND_STARTED: _ClassVar[RolloutEventKind]
    ROLLOUT_EVENT_KIND_STAGE: _ClassVar[RolloutEventKind]
    ROLLOUT_EVENT_KIND_PAUSED: _ClassVar[RolloutEventKind]
    ROLLOUT_EVENT_KIND_RESUMED: _ClassVar[RolloutEventKind]
    ROLLOUT_EVENT_KIND_PROMOTED: _ClassVar[RolloutEventKind]
    ROLLOUT_EVENT_KIND_ROLLED_BACK: _ClassVar[RolloutEventKind]
    ROLLOUT_EVENT_KIND_SUPERSEDED: _ClassVar[RolloutEventKind]
VARIABLE_TYPE_UNSPECIFIED: VariableType
VARIABLE_TYPE_FLOAT: VariableType
VARIABLE_TYPE_INTEGER: VariableType
VARIABLE_TYPE_STRING: VariableType
VARIABLE_TYPE_BOOLEAN: VariableType
VARIABLE_TYPE_CHOICE: VariableType
VARIABLE_TYPE_MODULE: VariableType
VARIABLE_TYPE_EMBEDDING: VariableType
VARIABLE_TYPE_TENSOR: VariableType
PREDICTION_STATE_UNSPECIFIED: PredictionState
PREDICTION_STATE_QUEUED: PredictionState
PREDICTION_STATE_RUNNING: PredictionState
PREDICTION_STATE_SUCCEEDED: PredictionState
PREDICTION_STATE_FAILED: PredictionState
PREDICTION_STATE_CANCELLED: PredictionState
ROLLOUT_STATE_UNSPECIFIED: RolloutState
ROLLOUT_STATE_NEW: RolloutState
ROLLOUT_STATE_RUNNING: RolloutState
ROLLOUT_STATE_PAUSED: RolloutState
ROLLOUT_STATE_ROLLED_BACK: RolloutState
ROLLOUT_STATE_PROMOTED: RolloutState
ROLLOUT_EVENT_KIND_UNSPECIFIED: RolloutEventKind
ROLLOUT_EVENT_KIND_STARTED: RolloutEventKind
ROLLOUT_EVENT_KIND_STAGE: RolloutEventKind
ROLLOUT_EVENT_KIND_PAUSED: RolloutEventKind
ROLLOUT_EVENT_KIND_RESUMED: RolloutEventKind
ROLLOUT_EVENT_KIND_PROMOTED: RolloutEventKind
ROLLOUT_EVENT_KIND_ROLLED_BACK: RolloutEventKind
ROLLOUT_EVENT_KIND_SUPERSEDED: RolloutEventKind

class Variable(_message.Message):
    __slots__ = ("name", "type", "value_json", "constraints_json")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    VALUE_JSON_FIELD_NUMBER: _ClassVar[int]
    CONSTRAINTS_JSON_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: VariableType
    value_json: bytes
    constraints_json: bytes
    def __init__(self, name: _Optional[str] = ..., type: _Optional[_Union[VariableType, str]] = ..., value_json: _Optional[bytes] = ..., constraints_json: _Optional[bytes] = ...) -> None: ...

class Change(_message.Message):
    __slots__ = ("name", "value_json", "delete", "type", "constraints_json")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_JSON_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    CONSTRAINTS_JSON_FIELD_NUMBER: _ClassVar[int]
    name: str
    value_json: bytes
    delete: bool
    type: VariableType
    constraints_json: bytes
    def __init__(self, name: _Optional[str] = ..., value_json: _Optional[bytes] = ..., delete: _Optional[bool] = ..., type: _Optional[_Union[VariableType, str]] = ..., constraints_json: _Optional[bytes] = ...) -> None: ...

class PublishRequest(_message.Message):
    __slots__ = ("session", "changes", "expected", "replace", "author", "reason", "request_id")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    session: str
    changes: _containers.RepeatedCompositeFieldContainer[Change]
    expected: str
    replace: bool
    author: str
    reason: str
    request_id: str
    def __init__(self, session: _Optional[str] = ..., changes: _Optional[_Iterable[_Union[Change, _Mapping]]] = ..., expected: _Optional[str] = ..., replace: _Optional[bool] = ..., author: _Optional[str] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class PublishResponse(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: str
    def __init__(self, token: _Optional[str] = ...) -> None: ...

class GetVariablesRequest(_message.Message):
    __slots__ = ("session", "names", "at_least", "exactly", "wait_s")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    EXACTLY_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    session: str
    names: _containers.RepeatedScalarFieldContainer[str]
    at_least: str
    exactly: str
    wait_s: float
    def __init__(self, session: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ..., at_least: _Optional[str] = ..., exactly: _Optional[str] = ..., wait_s: _Optional[float] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("session", "token", "variables", "confirmed_at", "authority", "staleness_s", "rollout", "staged")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    VARIABLES_FIELD_NUMBER: _ClassVar[int]
    CONFIRMED_AT_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    STALENESS_S_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    STAGED_FIELD_NUMBER: _ClassVar[int]
    session: str
    token: str
    variables: _containers.RepeatedCompositeFieldContainer[Variable]
    confirmed_at: _timestamp_pb2.Timestamp
    authority: str
    staleness_s: float
    rollout: Rollout
    staged: _containers.RepeatedCompositeFieldContainer[VariableChange]
    def __init__(self, session: _Optional[str] = ..., token: _Optional[str] = ..., variables: _Optional[_Iterable[_Union[Variable, _Mapping]]] = ..., confirmed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., authority: _Optional[str] = ..., staleness_s: _Optional[float] = ..., rollout: _Optional[_Union[Rollout, _Mapping]] = ..., staged: _Optional[_Iterable[_Union[VariableChange, _Mapping]]] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("session", "names", "after")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    session: str
    names: _containers.RepeatedScalarFieldContainer[str]
    after: str
    def __init__(self, session: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ..., after: _Optional[str] = ...) -> None: ...

class HistoryRequest(_message.Message):
    __slots__ = ("session", "limit")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    session: str
    limit: int
    def __init__(self, session: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class HistoryResponse(_message.Message):
    __slots__ = ("revisions",)
    REVISIONS_FIELD_NUMBER: _ClassVar[int]
    revisions: _containers.RepeatedCompositeFieldContainer[Revision]
    def __init__(self, revisions: _Optional[_Iterable[_Union[Revision, _Mapping]]] = ...) -> None: ...

class Revision(_message.Message):
    __slots__ = ("token", "at", "author", "reason", "changes")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    token: str
    at: _timestamp_pb2.Timestamp
    author: str
    reason: str
    changes: _containers.RepeatedCompositeFieldContainer[VariableChange]
    def __init__(self, token: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., author: _Optional[str] = ..., reason: _Optional[str] = ..., changes: _Optional[_Iterable[_Union[VariableChange, _Mapping]]] = ...) -> None: ...

class VariableChange(_message.Message):
    __slots__ = ("name", "before", "after")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    name: str
    before: Variable
    after: Variable
    def __init__(self, name: _Optional[str] = ..., before: _Optional[_Union[Variable, _Mapping]] = ..., after: _Optional[_Union[Variable, _Mapping]] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("session", "to", "expected", "author", "reason", "request_id")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    session: str
    to: str
    expected: str
    author: str
    reason: str
    request_id: str
    def __init__(self, session: _Optional[str] = ..., to: _Optional[str] = ..., expected: _Optional[str] = ..., author: _Optional[str] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class SubmitRequest(_message.Message):
    __slots__ = ("program", "session", "inputs_json", "at_least", "exactly", "deadline_s", "idempotency_key", "priority", "max_staleness_s", "stream", "outage", "key", "attributes_json")
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    INPUTS_JSON_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    EXACTLY_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    MAX_STALENESS_S_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    OUTAGE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_JSON_FIELD_NUMBER: _ClassVar[int]
    program: str
    session: str
    inputs_json: bytes
    at_least: str
    exactly: str
    deadline_s: float
    idempotency_key: str
    priority: int
    max_staleness_s: float
    stream: bool
    outage: str
    key: str
    attributes_json: bytes
    def __init__(self, program: _Optional[str] = ..., session: _Optional[str] = ..., inputs_json: _Optional[bytes] = ..., at_least: _Optional[str] = ..., exactly: _Optional[str] = ..., deadline_s: _Optional[float] = ..., idempotency_key: _Optional[str] = ..., priority: _Optional[int] = ..., max_staleness_s: _Optional[float] = ..., stream: _Optional[bool] = ..., outage: _Optional[str] = ..., key: _Optional[str] = ..., attributes_json: _Optional[bytes] = ...) -> None: ...

class Handle(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class SubmitBatchRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[SubmitRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[SubmitRequest, _Mapping]]] = ...) -> None: ...

class SubmitBatchResponse(_message.Message):
    __slots__ = ("submitted",)
    SUBMITTED_FIELD_NUMBER: _ClassVar[int]
    submitted: _containers.RepeatedCompositeFieldContainer[Submitted]
    def __init__(self, submitted: _Optional[_Iterable[_Union[Submitted, _Mapping]]] = ...) -> None: ...

class Submitted(_message.Message):
    __slots__ = ("handle", "error")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    handle: Handle
    error: Error
    def __init__(self, handle: _Optional[_Union[Handle, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class PredictionRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class StreamRequest(_message.Message):
    __slots__ = ("id", "after")
    ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    id: str
    after: str
    def __init__(self, id: _Optional[str] = ..., after: _Optional[str] = ...) -> None: ...

class AwaitRequest(_message.Message):
    __slots__ = ("id", "timeout_s")
    ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    id: str
    timeout_s: float
    def __init__(self, id: _Optional[str] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("id", "state", "outputs_json", "provenance", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_JSON_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: str
    state: PredictionState
    outputs_json: bytes
    provenance: Provenance
    error: Error
    def __init__(self, id: _Optional[str] = ..., state: _Optional[_Union[PredictionState, str]] = ..., outputs_json: _Optional[bytes] = ..., provenance: _Optional[_Union[Provenance, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class PredictionEvent(_message.Message):
    __slots__ = ("state", "piece", "ended", "position")
    STATE_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    state: PredictionState
    piece: OutputPiece
    ended: Prediction
    position: str
    def __init__(self, state: _Optional[_Union[PredictionState, str]] = ..., piece: _Optional[_Union[OutputPiece, _Mapping]] = ..., ended: _Optional[_Union[Prediction, _Mapping]] = ..., position: _Optional[str] = ...) -> None: ...

class OutputPiece(_message.Message):
    __slots__ = ("field", "text", "predictor", "call", "attempt", "replaced")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PREDICTOR_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    REPLACED_FIELD_NUMBER: _ClassVar[int]
    field: str
    text: str
    predictor: str
    call: int
    attempt: int
    replaced: bool
    def __init__(self, field: _Optional[str] = ..., text: _Optional[str] = ..., predictor: _Optional[str] = ..., call: _Optional[int] = ..., attempt: _Optional[int] = ..., replaced: _Optional[bool] = ...) -> None: ...

class Provenance(_message.Message):
    __slots__ = ("session", "token", "digest", "program", "program_version", "model", "prompt_tokens", "completion_tokens", "staleness_s", "outage", "worker", "cost_usd", "arms", "record_json")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STALENESS_S_FIELD_NUMBER: _ClassVar[int]
    OUTAGE_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    COST_USD_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    RECORD_JSON_FIELD_NUMBER: _ClassVar[int]
    session: str
    token: str
    digest: str
    program: str
    program_version: int
    model: str
    prompt_tokens: int
    completion_tokens: int
    staleness_s: float
    outage: bool
    worker: str
    cost_usd: str
    arms: _containers.RepeatedCompositeFieldContainer[Arm]
    record_json: bytes
    def __init__(self, session: _Optional[str] = ..., token: _Optional[str] = ..., digest: _Optional[str] = ..., program: _Optional[str] = ..., program_version: _Optional[int] = ..., model: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ..., staleness_s: _Optional[float] = ..., outage: _Optional[bool] = ..., worker: _Optional[str] = ..., cost_usd: _Optional[str] = ..., arms: _Optional[_Iterable[_Union[Arm, _Mapping]]] = ..., record_json: _Optional[bytes] = ...) -> None: ...

class Arm(_message.Message):
    __slots__ = ("rollout", "arm", "stage", "target")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    arm: str
    stage: int
    target: str
    def __init__(self, rollout: _Optional[str] = ..., arm: _Optional[str] = ..., stage: _Optional[int] = ..., target: _Optional[str] = ...) -> None: ...

class Rollout(_message.Message):
    __slots__ = ("target", "id", "state", "stage", "share", "baseline", "candidate", "sequence")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    target: str
    id: str
    state: RolloutState
    stage: int
    share: float
    baseline: str
    candidate: str
    sequence: int
    def __init__(self, target: _Optional[str] = ..., id: _Optional[str] = ..., state: _Optional[_Union[RolloutState, str]] = ..., stage: _Optional[int] = ..., share: _Optional[float] = ..., baseline: _Optional[str] = ..., candidate: _Optional[str] = ..., sequence: _Optional[int] = ...) -> None: ...

class StartRolloutRequest(_message.Message):
    __slots__ = ("target", "values_json", "version", "policy_json", "author", "reason", "request_id")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    VALUES_JSON_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    POLICY_JSON_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    target: str
    values_json: bytes
    version: int
    policy_json: bytes
    author: str
    reason: str
    request_id: str
    def __init__(self, target: _Optional[str] = ..., values_json: _Optional[bytes] = ..., version: _Optional[int] = ..., policy_json: _Optional[bytes] = ..., author: _Optional[str] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class ListRolloutsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRolloutsResponse(_message.Message):
    __slots__ = ("rollouts",)
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    rollouts: _containers.RepeatedCompositeFieldContainer[Rollout]
    def __init__(self, rollouts: _Optional[_Iterable[_Union[Rollout, _Mapping]]] = ...) -> None: ...

class ShowRolloutRequest(_message.Message):
    __slots__ = ("target",)
    TARGET_FIELD_NUMBER: _ClassVar[int]
    target: str
    def __init__(self, target: _Optional[str] = ...) -> None: ...

class RolloutReport(_message.Message):
    __slots__ = ("rollout", "report_json")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    REPORT_JSON_FIELD_NUMBER: _ClassVar[int]
    rollout: Rollout
    report_json: bytes
    def __init__(self, rollout: _Optional[_Union[Rollout, _Mapping]] = ..., report_json: _Optional[bytes] = ...) -> None: ...

class WatchRolloutRequest(_message.Message):
    __slots__ = ("target", "after")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    target: str
    after: str
    def __init__(self, target: _Optional[str] = ..., after: _Optional[str] = ...) -> None: ...

class StepRolloutRequest(_message.Message):
    __slots__ = ("target", "author", "reason", "request_id")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    target: str
    author: str
    reason: str
    request_id: str
    def __init__(self, target: _Optional[str] = ..., author: _Optional[str] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class RolloutEvent(_message.Message):
    __slots__ = ("kind", "rollout", "author", "reason", "detail_json", "at", "position")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_JSON_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    kind: RolloutEventKind
    rollout: Rollout
    author: str
    reason: str
    detail_json: bytes
    at: _timestamp_pb2.Timestamp
    position: str
    def __init__(self, kind: _Optional[_Union[RolloutEventKind, str]] = ..., rollout: _Optional[_Union[Rollout, _Mapping]] = ..., author: _Optional[str] = ..., reason: _Optional[str] = ..., detail_json: _Optional[bytes] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., position: _Optional[str] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("kind", "message", "fields_json")
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELDS_JSON_FIELD_NUMBER: _ClassVar[int]
    kind: str
    message: str
    fields_json: bytes
    def __init__(self, kind: _Optional[str] = ..., message: _Optional[str] = ..., fields_json: _Optional[bytes] = ...) -> None: ...

class RegisterRequest(_message.Message):
    __slots__ = ("name", "spec_json", "labels")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_JSON_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    name: str
    spec_json: bytes
    labels: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., spec_json: _Optional[bytes] = ..., labels: _Optional[_Iterable[str]] = ...) -> None: ...

class Program(_message.Message):
    __slots__ = ("name", "version", "content", "labels", "spec_json")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    SPEC_JSON_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    content: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    spec_json: bytes
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., content: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., spec_json: _Optional[bytes] = ...) -> None: ...

class ListProgramsRequest(_message.Message):
    __slots__ = ("prefix", "page_size", "page_token")
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    prefix: str
    page_size: int
    page_token: str
    def __init__(self, prefix: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListProgramsResponse(_message.Message):
    __slots__ = ("programs", "next_page_token")
    PROGRAMS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    programs: _containers.RepeatedCompositeFieldContainer[Program]
    next_page_token: str
    def __init__(self, programs: _Optional[_Iterable[_Union[Program, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetProgramRequest(_message.Message):
    __slots__ = ("reference",)
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    reference: str
    def __init__(self, reference: _Optional[str] = ...) -> None: ...

class CostReportRequest(_message.Message):
    __slots__ = ("by", "since_s", "limit")
    BY_FIELD_NUMBER: _ClassVar[int]
    SINCE_S_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    by: str
    since_s: float
    limit: int
    def __init__(self, by: _Optional[str] = ..., since_s: _Optional[float] = ..., limit: _Optional[int] = ...) -> None: ...

class CostReport(_message.Message):
    __slots__ = ("by", "since", "until", "rows", "total", "omitted")
    BY_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    OMITTED_FIELD_NUMBER: _ClassVar[int]
    by: str
    since: _timestamp_pb2.Timestamp
    until: _timestamp_pb2.Timestamp
    rows: _containers.RepeatedCompositeFieldContainer[CostRow]
    total: CostRow
    omitted: int
    def __init__(self, by: _Optional[str] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., rows: _Optional[_Iterable[_Union[CostRow, _Mapping]]] = ..., total: _Optional[_Union[CostRow, _Mapping]] = ..., omitted: _Optional[int] = ...) -> None: ...

class CostRow(_message.Message):
    __slots__ = ("program", "session", "token", "profile", "predictions", "usage", "failed", "failed_usage")
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    FAILED_USAGE_FIELD_NUMBER: _ClassVar[int]
    program: str
    session: str
    token: str
    profile: str
    predictions: int
    usage: LMUsage
    failed: int
    failed_usage: LMUsage
    def __init__(self, program: _Optional[str] = ..., session: _Optional[str] = ..., token: _Optional[str] = ..., profile: _Optional[str] = ..., predictions: _Optional[int] = ..., usage: _Optional[_Union[LMUsage, _Mapping]] = ..., failed: _Optional[int] = ..., failed_usage: _Optional[_Union[LMUsage, _Mapping]] = ...) -> None: ...

class LMUsage(_message.Message):
    __slots__ = ("calls", "unpriced_calls", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "cost_usd")
    CALLS_FIELD_NUMBER: _ClassVar[int]
    UNPRICED_CALLS_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REASONING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COST_USD_FIELD_NUMBER: _ClassVar[int]
    calls: int
    unpriced_calls: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_usd: str
    def __init__(self, calls: _Optional[int] = ..., unpriced_calls: _Optional[int] = ..., input_tokens: _Optional[int] = ..., cached_input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., reasoning_tokens: _Optional[int] = ..., cost_usd: _Optional[str] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("id", "name", "value_json", "comment", "scorer")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_JSON_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    SCORER_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    value_json: bytes
    comment: str
    scorer: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., value_json: _Optional[bytes] = ..., comment: _Optional[str] = ..., scorer: _Optional[str] = ...) -> None: ...

class PredictionScore(_message.Message):
    __slots__ = ("name", "value_json", "comment", "scorer", "at")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_JSON_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    SCORER_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    name: str
    value_json: bytes
    comment: str
    scorer: str
    at: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., value_json: _Optional[bytes] = ..., comment: _Optional[str] = ..., scorer: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListScoresRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ListScoresResponse(_message.Message):
    __slots__ = ("scores",)
    SCORES_FIELD_NUMBER: _ClassVar[int]
    scores: _containers.RepeatedCompositeFieldContainer[PredictionScore]
    def __init__(self, scores: _Optional[_Iterable[_Union[PredictionScore, _Mapping]]] = ...) -> None: ...
