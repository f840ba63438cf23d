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

class ExperimentState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXPERIMENT_STATE_UNSPECIFIED: _ClassVar[ExperimentState]
    EXPERIMENT_STATE_RUNNING: _ClassVar[ExperimentState]
    EXPERIMENT_STATE_DECIDED: _ClassVar[ExperimentState]
    EXPERIMENT_STATE_STOPPED: _ClassVar[ExperimentState]

class ExperimentEventKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXPERIMENT_EVENT_KIND_UNSPECIFIED: _ClassVar[ExperimentEventKind]
    EXPERIMENT_EVENT_KIND_STARTED: _ClassVar[ExperimentEventKind]
    EXPERIMENT_EVENT_KIND_DECIDED: _ClassVar[ExperimentEventKind]
    EXPERIMENT_EVENT_KIND_STOPPED: _ClassVar[ExperimentEventKind]

class JobKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_KIND_UNSPECIFIED: _ClassVar[JobKind]
    JOB_KIND_EVALUATION: _ClassVar[JobKind]
    JOB_KIND_OPTIMIZATION: _ClassVar[JobKind]

class JobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STATE_UNSPECIFIED: _ClassVar[JobState]
    JOB_STATE_QUEUED: _ClassVar[JobState]
    JOB_STATE_RUNNING: _ClassVar[JobState]
    JOB_STATE_SUCCEEDED: _ClassVar[JobState]
    JOB_STATE_FAILED: _ClassVar[JobState]
    JOB_STATE_CANCELLED: _ClassVar[JobState]
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
EXPERIMENT_STATE_UNSPECIFIED: ExperimentState
EXPERIMENT_STATE_RUNNING: ExperimentState
EXPERIMENT_STATE_DECIDED: ExperimentState
EXPERIMENT_STATE_STOPPED: ExperimentState
EXPERIMENT_EVENT_KIND_UNSPECIFIED: ExperimentEventKind
EXPERIMENT_EVENT_KIND_STARTED: ExperimentEventKind
EXPERIMENT_EVENT_KIND_DECIDED: ExperimentEventKind
EXPERIMENT_EVENT_KIND_STOPPED: ExperimentEventKind
JOB_KIND_UNSPECIFIED: JobKind
JOB_KIND_EVALUATION: JobKind
JOB_KIND_OPTIMIZATION: JobKind
JOB_STATE_UNSPECIFIED: JobState
JOB_STATE_QUEUED: JobState
JOB_STATE_RUNNING: JobState
JOB_STATE_SUCCEEDED: JobState
JOB_STATE_FAILED: JobState
JOB_STATE_CANCELLED: JobState

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

class DiffRequest(_message.Message):
    __slots__ = ("session", "before", "after")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    session: str
    before: str
    after: str
    def __init__(self, session: _Optional[str] = ..., before: _Optional[str] = ..., after: _Optional[str] = ...) -> None: ...

class DiffResponse(_message.Message):
    __slots__ = ("changes",)
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[VariableChange]
    def __init__(self, changes: _Optional[_Iterable[_Union[VariableChange, _Mapping]]] = ...) -> None: ...

class SessionRequest(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: str
    def __init__(self, session: _Optional[str] = ...) -> None: ...

class ListSessionsRequest(_message.Message):
    __slots__ = ("prefix", "page_size", "page_token")
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    prefix: str
    page_size: int
    page_token: str
    def __init__(self, prefix: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListSessionsResponse(_message.Message):
    __slots__ = ("sessions", "next_page_token")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[Session]
    next_page_token: str
    def __init__(self, sessions: _Optional[_Iterable[_Union[Session, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Session(_message.Message):
    __slots__ = ("name", "token", "authority", "confirmed_at", "staleness_s", "rollout", "experiments", "acknowledgements")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    CONFIRMED_AT_FIELD_NUMBER: _ClassVar[int]
    STALENESS_S_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENTS_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGEMENTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    token: str
    authority: str
    confirmed_at: _timestamp_pb2.Timestamp
    staleness_s: float
    rollout: Rollout
    experiments: _containers.RepeatedCompositeFieldContainer[Experiment]
    acknowledgements: _containers.RepeatedCompositeFieldContainer[Acknowledgement]
    def __init__(self, name: _Optional[str] = ..., token: _Optional[str] = ..., authority: _Optional[str] = ..., confirmed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., staleness_s: _Optional[float] = ..., rollout: _Optional[_Union[Rollout, _Mapping]] = ..., experiments: _Optional[_Iterable[_Union[Experiment, _Mapping]]] = ..., acknowledgements: _Optional[_Iterable[_Union[Acknowledgement, _Mapping]]] = ...) -> None: ...

class Acknowledgement(_message.Message):
    __slots__ = ("process", "token", "error")
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    process: str
    token: str
    error: str
    def __init__(self, process: _Optional[str] = ..., token: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class Label(_message.Message):
    __slots__ = ("name", "token", "at", "author", "reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    token: str
    at: _timestamp_pb2.Timestamp
    author: str
    reason: str
    def __init__(self, name: _Optional[str] = ..., token: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., author: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ListLabelsResponse(_message.Message):
    __slots__ = ("labels",)
    LABELS_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.RepeatedCompositeFieldContainer[Label]
    def __init__(self, labels: _Optional[_Iterable[_Union[Label, _Mapping]]] = ...) -> None: ...

class SetLabelRequest(_message.Message):
    __slots__ = ("session", "label", "at", "expected", "author", "reason")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    session: str
    label: str
    at: str
    expected: str
    author: str
    reason: str
    def __init__(self, session: _Optional[str] = ..., label: _Optional[str] = ..., at: _Optional[str] = ..., expected: _Optional[str] = ..., author: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RemoveLabelRequest(_message.Message):
    __slots__ = ("session", "label")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    session: str
    label: str
    def __init__(self, session: _Optional[str] = ..., label: _Optional[str] = ...) -> None: ...

class RemoveLabelResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PromoteRequest(_message.Message):
    __slots__ = ("session", "label", "at", "wait_s", "author")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    session: str
    label: str
    at: str
    wait_s: float
    author: str
    def __init__(self, session: _Optional[str] = ..., label: _Optional[str] = ..., at: _Optional[str] = ..., wait_s: _Optional[float] = ..., author: _Optional[str] = ...) -> None: ...

class Check(_message.Message):
    __slots__ = ("name", "schema_json", "function")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_JSON_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    name: str
    schema_json: bytes
    function: str
    def __init__(self, name: _Optional[str] = ..., schema_json: _Optional[bytes] = ..., function: _Optional[str] = ...) -> None: ...

class ListChecksResponse(_message.Message):
    __slots__ = ("checks",)
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    checks: _containers.RepeatedCompositeFieldContainer[Check]
    def __init__(self, checks: _Optional[_Iterable[_Union[Check, _Mapping]]] = ...) -> None: ...

class DeclareChecksRequest(_message.Message):
    __slots__ = ("session", "checks", "remove")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    session: str
    checks: _containers.RepeatedCompositeFieldContainer[Check]
    remove: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, session: _Optional[str] = ..., checks: _Optional[_Iterable[_Union[Check, _Mapping]]] = ..., remove: _Optional[_Iterable[str]] = ...) -> None: ...

class Retention(_message.Message):
    __slots__ = ("revisions", "age_s", "ttl_s", "is_default")
    REVISIONS_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    IS_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    revisions: int
    age_s: float
    ttl_s: float
    is_default: bool
    def __init__(self, revisions: _Optional[int] = ..., age_s: _Optional[float] = ..., ttl_s: _Optional[float] = ..., is_default: _Optional[bool] = ...) -> None: ...

class SetRetentionRequest(_message.Message):
    __slots__ = ("session", "revisions", "age_s", "ttl_s")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REVISIONS_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    session: str
    revisions: int
    age_s: float
    ttl_s: float
    def __init__(self, session: _Optional[str] = ..., revisions: _Optional[int] = ..., age_s: _Optional[float] = ..., ttl_s: _Optional[float] = ...) -> None: ...

class SubmitRequest(_message.Message):
    __slots__ = ("program", "session", "inputs_json", "at_least", "exactly", "deadline_s", "idempotency_key", "priority", "max_staleness_s", "stream", "outage", "key", "attributes_json", "trace")
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
    TRACE_FIELD_NUMBER: _ClassVar[int]
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
    trace: bool
    def __init__(self, program: _Optional[str] = ..., session: _Optional[str] = ..., inputs_json: _Optional[bytes] = ..., at_least: _Optional[str] = ..., exactly: _Optional[str] = ..., deadline_s: _Optional[float] = ..., idempotency_key: _Optional[str] = ..., priority: _Optional[int] = ..., max_staleness_s: _Optional[float] = ..., stream: _Optional[bool] = ..., outage: _Optional[str] = ..., key: _Optional[str] = ..., attributes_json: _Optional[bytes] = ..., trace: _Optional[bool] = ...) -> None: ...

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
    __slots__ = ("id", "inputs")
    ID_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    id: str
    inputs: bool
    def __init__(self, id: _Optional[str] = ..., inputs: _Optional[bool] = ...) -> None: ...

class SearchPredictionsRequest(_message.Message):
    __slots__ = ("program", "version", "under_session", "under_token", "outcome", "arm", "scores", "since_s", "id", "page_size", "page_token")
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UNDER_SESSION_FIELD_NUMBER: _ClassVar[int]
    UNDER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    SINCE_S_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    program: str
    version: int
    under_session: str
    under_token: str
    outcome: str
    arm: str
    scores: _containers.RepeatedScalarFieldContainer[str]
    since_s: float
    id: str
    page_size: int
    page_token: str
    def __init__(self, program: _Optional[str] = ..., version: _Optional[int] = ..., under_session: _Optional[str] = ..., under_token: _Optional[str] = ..., outcome: _Optional[str] = ..., arm: _Optional[str] = ..., scores: _Optional[_Iterable[str]] = ..., since_s: _Optional[float] = ..., id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class SearchPredictionsResponse(_message.Message):
    __slots__ = ("predictions", "next_page_token", "searched_to")
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SEARCHED_TO_FIELD_NUMBER: _ClassVar[int]
    predictions: _containers.RepeatedCompositeFieldContainer[RecordedPrediction]
    next_page_token: str
    searched_to: _timestamp_pb2.Timestamp
    def __init__(self, predictions: _Optional[_Iterable[_Union[RecordedPrediction, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., searched_to: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RecordedPrediction(_message.Message):
    __slots__ = ("id", "program", "version", "session", "token", "inputs_json", "outputs_json", "error", "model", "arms", "scores_json", "at")
    ID_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    INPUTS_JSON_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_JSON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    SCORES_JSON_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    program: str
    version: int
    session: str
    token: str
    inputs_json: bytes
    outputs_json: bytes
    error: str
    model: str
    arms: _containers.RepeatedCompositeFieldContainer[Arm]
    scores_json: bytes
    at: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., program: _Optional[str] = ..., version: _Optional[int] = ..., session: _Optional[str] = ..., token: _Optional[str] = ..., inputs_json: _Optional[bytes] = ..., outputs_json: _Optional[bytes] = ..., error: _Optional[str] = ..., model: _Optional[str] = ..., arms: _Optional[_Iterable[_Union[Arm, _Mapping]]] = ..., scores_json: _Optional[bytes] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

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

class ReplayRequest(_message.Message):
    __slots__ = ("id", "timeout_s")
    ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    id: str
    timeout_s: float
    def __init__(self, id: _Optional[str] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class ReplayResponse(_message.Message):
    __slots__ = ("inputs_json", "first", "again", "differences")
    INPUTS_JSON_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    AGAIN_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    inputs_json: bytes
    first: Prediction
    again: Prediction
    differences: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, inputs_json: _Optional[bytes] = ..., first: _Optional[_Union[Prediction, _Mapping]] = ..., again: _Optional[_Union[Prediction, _Mapping]] = ..., differences: _Optional[_Iterable[str]] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ("since_s",)
    SINCE_S_FIELD_NUMBER: _ClassVar[int]
    since_s: float
    def __init__(self, since_s: _Optional[float] = ...) -> None: ...

class FleetStatus(_message.Message):
    __slots__ = ("at", "processes", "queues", "held", "delayed", "parked", "dead", "limits", "parked_by_profile", "lagging", "ended")
    AT_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    DELAYED_FIELD_NUMBER: _ClassVar[int]
    PARKED_FIELD_NUMBER: _ClassVar[int]
    DEAD_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    PARKED_BY_PROFILE_FIELD_NUMBER: _ClassVar[int]
    LAGGING_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    processes: _containers.RepeatedCompositeFieldContainer[WorkerProcess]
    queues: _containers.RepeatedCompositeFieldContainer[QueueDepth]
    held: int
    delayed: int
    parked: int
    dead: int
    limits: _containers.RepeatedCompositeFieldContainer[LimitUse]
    parked_by_profile: _containers.RepeatedCompositeFieldContainer[ParkedPredictions]
    lagging: _containers.RepeatedCompositeFieldContainer[LaggingSession]
    ended: _containers.RepeatedCompositeFieldContainer[EndedPredictions]
    def __init__(self, at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., processes: _Optional[_Iterable[_Union[WorkerProcess, _Mapping]]] = ..., queues: _Optional[_Iterable[_Union[QueueDepth, _Mapping]]] = ..., held: _Optional[int] = ..., delayed: _Optional[int] = ..., parked: _Optional[int] = ..., dead: _Optional[int] = ..., limits: _Optional[_Iterable[_Union[LimitUse, _Mapping]]] = ..., parked_by_profile: _Optional[_Iterable[_Union[ParkedPredictions, _Mapping]]] = ..., lagging: _Optional[_Iterable[_Union[LaggingSession, _Mapping]]] = ..., ended: _Optional[_Iterable[_Union[EndedPredictions, _Mapping]]] = ...) -> None: ...

class WorkerProcess(_message.Message):
    __slots__ = ("node", "pid", "pool", "concurrency", "in_flight", "queues", "started_at", "reported_at", "succeeded", "failed", "cancelled", "newer_release")
    NODE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    REPORTED_AT_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    NEWER_RELEASE_FIELD_NUMBER: _ClassVar[int]
    node: str
    pid: int
    pool: str
    concurrency: int
    in_flight: int
    queues: _containers.RepeatedScalarFieldContainer[str]
    started_at: _timestamp_pb2.Timestamp
    reported_at: _timestamp_pb2.Timestamp
    succeeded: int
    failed: int
    cancelled: int
    newer_release: str
    def __init__(self, node: _Optional[str] = ..., pid: _Optional[int] = ..., pool: _Optional[str] = ..., concurrency: _Optional[int] = ..., in_flight: _Optional[int] = ..., queues: _Optional[_Iterable[str]] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reported_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., succeeded: _Optional[int] = ..., failed: _Optional[int] = ..., cancelled: _Optional[int] = ..., newer_release: _Optional[str] = ...) -> None: ...

class QueueDepth(_message.Message):
    __slots__ = ("queue", "priorities", "waiting", "oldest_s")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    PRIORITIES_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    OLDEST_S_FIELD_NUMBER: _ClassVar[int]
    queue: str
    priorities: str
    waiting: int
    oldest_s: float
    def __init__(self, queue: _Optional[str] = ..., priorities: _Optional[str] = ..., waiting: _Optional[int] = ..., oldest_s: _Optional[float] = ...) -> None: ...

class LimitUse(_message.Message):
    __slots__ = ("profile", "kind", "allowed", "used")
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    profile: str
    kind: str
    allowed: float
    used: float
    def __init__(self, profile: _Optional[str] = ..., kind: _Optional[str] = ..., allowed: _Optional[float] = ..., used: _Optional[float] = ...) -> None: ...

class ParkedPredictions(_message.Message):
    __slots__ = ("profile", "predictions")
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    profile: str
    predictions: int
    def __init__(self, profile: _Optional[str] = ..., predictions: _Optional[int] = ...) -> None: ...

class LaggingSession(_message.Message):
    __slots__ = ("session", "processes", "behind")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    BEHIND_FIELD_NUMBER: _ClassVar[int]
    session: str
    processes: int
    behind: int
    def __init__(self, session: _Optional[str] = ..., processes: _Optional[int] = ..., behind: _Optional[int] = ...) -> None: ...

class EndedPredictions(_message.Message):
    __slots__ = ("at", "seconds", "succeeded", "failed", "cancelled", "p50_s", "p95_s")
    AT_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    P50_S_FIELD_NUMBER: _ClassVar[int]
    P95_S_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    seconds: float
    succeeded: int
    failed: int
    cancelled: int
    p50_s: float
    p95_s: float
    def __init__(self, at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., seconds: _Optional[float] = ..., succeeded: _Optional[int] = ..., failed: _Optional[int] = ..., cancelled: _Optional[int] = ..., p50_s: _Optional[float] = ..., p95_s: _Optional[float] = ...) -> None: ...

class ListAuditRequest(_message.Message):
    __slots__ = ("of_session", "actor", "action", "outcome", "since_s", "limit", "before")
    OF_SESSION_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    SINCE_S_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    of_session: str
    actor: str
    action: str
    outcome: str
    since_s: float
    limit: int
    before: str
    def __init__(self, of_session: _Optional[str] = ..., actor: _Optional[str] = ..., action: _Optional[str] = ..., outcome: _Optional[str] = ..., since_s: _Optional[float] = ..., limit: _Optional[int] = ..., before: _Optional[str] = ...) -> None: ...

class ListAuditResponse(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[AuditEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[AuditEntry, _Mapping]]] = ...) -> None: ...

class AuditEntry(_message.Message):
    __slots__ = ("action", "target", "actor", "source", "reason", "before", "after", "outcome", "problem", "names", "changes", "approval", "approvers", "at", "position")
    ACTION_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    APPROVAL_FIELD_NUMBER: _ClassVar[int]
    APPROVERS_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    action: str
    target: str
    actor: str
    source: str
    reason: str
    before: str
    after: str
    outcome: str
    problem: str
    names: _containers.RepeatedScalarFieldContainer[str]
    changes: int
    approval: str
    approvers: _containers.RepeatedScalarFieldContainer[str]
    at: _timestamp_pb2.Timestamp
    position: str
    def __init__(self, action: _Optional[str] = ..., target: _Optional[str] = ..., actor: _Optional[str] = ..., source: _Optional[str] = ..., reason: _Optional[str] = ..., before: _Optional[str] = ..., after: _Optional[str] = ..., outcome: _Optional[str] = ..., problem: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ..., changes: _Optional[int] = ..., approval: _Optional[str] = ..., approvers: _Optional[_Iterable[str]] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., position: _Optional[str] = ...) -> None: ...

class Protection(_message.Message):
    __slots__ = ("kind", "pattern", "approvals", "author", "at")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    APPROVALS_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    kind: str
    pattern: str
    approvals: int
    author: str
    at: _timestamp_pb2.Timestamp
    def __init__(self, kind: _Optional[str] = ..., pattern: _Optional[str] = ..., approvals: _Optional[int] = ..., author: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListProtectionsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListProtectionsResponse(_message.Message):
    __slots__ = ("protections",)
    PROTECTIONS_FIELD_NUMBER: _ClassVar[int]
    protections: _containers.RepeatedCompositeFieldContainer[Protection]
    def __init__(self, protections: _Optional[_Iterable[_Union[Protection, _Mapping]]] = ...) -> None: ...

class ProtectRequest(_message.Message):
    __slots__ = ("kind", "pattern", "approvals", "author")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    APPROVALS_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    kind: str
    pattern: str
    approvals: int
    author: str
    def __init__(self, kind: _Optional[str] = ..., pattern: _Optional[str] = ..., approvals: _Optional[int] = ..., author: _Optional[str] = ...) -> None: ...

class UnprotectRequest(_message.Message):
    __slots__ = ("kind", "pattern", "author")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    kind: str
    pattern: str
    author: str
    def __init__(self, kind: _Optional[str] = ..., pattern: _Optional[str] = ..., author: _Optional[str] = ...) -> None: ...

class UnprotectResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ApprovalRequest(_message.Message):
    __slots__ = ("id", "operation", "target", "arguments_json", "expected", "author", "reason", "rule", "needed", "approvers", "source", "created_at", "expires_at", "digest")
    ID_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_JSON_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    NEEDED_FIELD_NUMBER: _ClassVar[int]
    APPROVERS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    id: str
    operation: str
    target: str
    arguments_json: bytes
    expected: str
    author: str
    reason: str
    rule: str
    needed: int
    approvers: _containers.RepeatedScalarFieldContainer[str]
    source: str
    created_at: _timestamp_pb2.Timestamp
    expires_at: _timestamp_pb2.Timestamp
    digest: str
    def __init__(self, id: _Optional[str] = ..., operation: _Optional[str] = ..., target: _Optional[str] = ..., arguments_json: _Optional[bytes] = ..., expected: _Optional[str] = ..., author: _Optional[str] = ..., reason: _Optional[str] = ..., rule: _Optional[str] = ..., needed: _Optional[int] = ..., approvers: _Optional[_Iterable[str]] = ..., source: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., digest: _Optional[str] = ...) -> None: ...

class ListApprovalsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListApprovalsResponse(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[ApprovalRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[ApprovalRequest, _Mapping]]] = ...) -> None: ...

class ApprovalRequestRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ApproveRequest(_message.Message):
    __slots__ = ("id", "author")
    ID_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    id: str
    author: str
    def __init__(self, id: _Optional[str] = ..., author: _Optional[str] = ...) -> None: ...

class RejectRequest(_message.Message):
    __slots__ = ("id", "author", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: str
    author: str
    reason: str
    def __init__(self, id: _Optional[str] = ..., author: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Approval(_message.Message):
    __slots__ = ("request", "applied", "result")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    request: ApprovalRequest
    applied: bool
    result: str
    def __init__(self, request: _Optional[_Union[ApprovalRequest, _Mapping]] = ..., applied: _Optional[bool] = ..., result: _Optional[str] = ...) -> None: ...

class ListDeadLettersRequest(_message.Message):
    __slots__ = ("limit",)
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    limit: int
    def __init__(self, limit: _Optional[int] = ...) -> None: ...

class ListDeadLettersResponse(_message.Message):
    __slots__ = ("letters", "count")
    LETTERS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    letters: _containers.RepeatedCompositeFieldContainer[DeadLetter]
    count: int
    def __init__(self, letters: _Optional[_Iterable[_Union[DeadLetter, _Mapping]]] = ..., count: _Optional[int] = ...) -> None: ...

class DeadLetterRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class DropDeadLetterResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeadLetter(_message.Message):
    __slots__ = ("id", "reason", "error", "queue", "task", "prediction_ids", "deliveries", "at", "message")
    ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_IDS_FIELD_NUMBER: _ClassVar[int]
    DELIVERIES_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    id: str
    reason: str
    error: str
    queue: str
    task: str
    prediction_ids: _containers.RepeatedScalarFieldContainer[str]
    deliveries: int
    at: _timestamp_pb2.Timestamp
    message: str
    def __init__(self, id: _Optional[str] = ..., reason: _Optional[str] = ..., error: _Optional[str] = ..., queue: _Optional[str] = ..., task: _Optional[str] = ..., prediction_ids: _Optional[_Iterable[str]] = ..., deliveries: _Optional[int] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., message: _Optional[str] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("id", "state", "outputs_json", "provenance", "error", "completions_json", "trace_json", "inputs_json")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_JSON_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    COMPLETIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    TRACE_JSON_FIELD_NUMBER: _ClassVar[int]
    INPUTS_JSON_FIELD_NUMBER: _ClassVar[int]
    id: str
    state: PredictionState
    outputs_json: bytes
    provenance: Provenance
    error: Error
    completions_json: bytes
    trace_json: bytes
    inputs_json: bytes
    def __init__(self, id: _Optional[str] = ..., state: _Optional[_Union[PredictionState, str]] = ..., outputs_json: _Optional[bytes] = ..., provenance: _Optional[_Union[Provenance, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., completions_json: _Optional[bytes] = ..., trace_json: _Optional[bytes] = ..., inputs_json: _Optional[bytes] = ...) -> None: ...

class ListLMCallsRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ListLMCallsResponse(_message.Message):
    __slots__ = ("captured", "calls", "omitted")
    CAPTURED_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    OMITTED_FIELD_NUMBER: _ClassVar[int]
    captured: bool
    calls: _containers.RepeatedCompositeFieldContainer[LMCall]
    omitted: int
    def __init__(self, captured: _Optional[bool] = ..., calls: _Optional[_Iterable[_Union[LMCall, _Mapping]]] = ..., omitted: _Optional[int] = ...) -> None: ...

class LMCall(_message.Message):
    __slots__ = ("profile", "model", "started_at", "duration_s", "messages_json", "answer_json", "requests", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "cost_usd", "error", "cut")
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_JSON_FIELD_NUMBER: _ClassVar[int]
    ANSWER_JSON_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REASONING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COST_USD_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    profile: str
    model: str
    started_at: _timestamp_pb2.Timestamp
    duration_s: float
    messages_json: bytes
    answer_json: bytes
    requests: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_usd: str
    error: str
    cut: bool
    def __init__(self, profile: _Optional[str] = ..., model: _Optional[str] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., duration_s: _Optional[float] = ..., messages_json: _Optional[bytes] = ..., answer_json: _Optional[bytes] = ..., requests: _Optional[int] = ..., input_tokens: _Optional[int] = ..., cached_input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., reasoning_tokens: _Optional[int] = ..., cost_usd: _Optional[str] = ..., error: _Optional[str] = ..., cut: _Optional[bool] = ...) -> None: ...

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
    __slots__ = ("rollout", "arm", "stage", "target", "experiment")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    arm: str
    stage: int
    target: str
    experiment: str
    def __init__(self, rollout: _Optional[str] = ..., arm: _Optional[str] = ..., stage: _Optional[int] = ..., target: _Optional[str] = ..., experiment: _Optional[str] = ...) -> None: ...

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
    __slots__ = ("target", "looks")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    LOOKS_FIELD_NUMBER: _ClassVar[int]
    target: str
    looks: int
    def __init__(self, target: _Optional[str] = ..., looks: _Optional[int] = ...) -> None: ...

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

class ExperimentArm(_message.Message):
    __slots__ = ("name", "weight", "revision")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    name: str
    weight: float
    revision: str
    def __init__(self, name: _Optional[str] = ..., weight: _Optional[float] = ..., revision: _Optional[str] = ...) -> None: ...

class Experiment(_message.Message):
    __slots__ = ("target", "name", "id", "state", "arms", "from_share", "to_share", "segment_json", "winner")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    FROM_SHARE_FIELD_NUMBER: _ClassVar[int]
    TO_SHARE_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_JSON_FIELD_NUMBER: _ClassVar[int]
    WINNER_FIELD_NUMBER: _ClassVar[int]
    target: str
    name: str
    id: str
    state: ExperimentState
    arms: _containers.RepeatedCompositeFieldContainer[ExperimentArm]
    from_share: float
    to_share: float
    segment_json: bytes
    winner: str
    def __init__(self, target: _Optional[str] = ..., name: _Optional[str] = ..., id: _Optional[str] = ..., state: _Optional[_Union[ExperimentState, str]] = ..., arms: _Optional[_Iterable[_Union[ExperimentArm, _Mapping]]] = ..., from_share: _Optional[float] = ..., to_share: _Optional[float] = ..., segment_json: _Optional[bytes] = ..., winner: _Optional[str] = ...) -> None: ...

class StartExperimentRequest(_message.Message):
    __slots__ = ("target", "name", "arms", "from_share", "to_share", "segment_json", "author", "reason", "request_id")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    FROM_SHARE_FIELD_NUMBER: _ClassVar[int]
    TO_SHARE_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_JSON_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    target: str
    name: str
    arms: _containers.RepeatedCompositeFieldContainer[ExperimentArm]
    from_share: float
    to_share: float
    segment_json: bytes
    author: str
    reason: str
    request_id: str
    def __init__(self, target: _Optional[str] = ..., name: _Optional[str] = ..., arms: _Optional[_Iterable[_Union[ExperimentArm, _Mapping]]] = ..., from_share: _Optional[float] = ..., to_share: _Optional[float] = ..., segment_json: _Optional[bytes] = ..., author: _Optional[str] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class ListExperimentsRequest(_message.Message):
    __slots__ = ("target",)
    TARGET_FIELD_NUMBER: _ClassVar[int]
    target: str
    def __init__(self, target: _Optional[str] = ...) -> None: ...

class ListExperimentsResponse(_message.Message):
    __slots__ = ("experiments",)
    EXPERIMENTS_FIELD_NUMBER: _ClassVar[int]
    experiments: _containers.RepeatedCompositeFieldContainer[Experiment]
    def __init__(self, experiments: _Optional[_Iterable[_Union[Experiment, _Mapping]]] = ...) -> None: ...

class ShowExperimentRequest(_message.Message):
    __slots__ = ("target", "experiment")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    target: str
    experiment: str
    def __init__(self, target: _Optional[str] = ..., experiment: _Optional[str] = ...) -> None: ...

class ExperimentReport(_message.Message):
    __slots__ = ("experiment", "report_json")
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    REPORT_JSON_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    report_json: bytes
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ..., report_json: _Optional[bytes] = ...) -> None: ...

class ExperimentEventsRequest(_message.Message):
    __slots__ = ("target", "after", "limit")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    target: str
    after: str
    limit: int
    def __init__(self, target: _Optional[str] = ..., after: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class ExperimentEventsResponse(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[ExperimentEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[ExperimentEvent, _Mapping]]] = ...) -> None: ...

class ExperimentEvent(_message.Message):
    __slots__ = ("kind", "experiment", "author", "reason", "at", "position")
    KIND_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    kind: ExperimentEventKind
    experiment: Experiment
    author: str
    reason: str
    at: _timestamp_pb2.Timestamp
    position: str
    def __init__(self, kind: _Optional[_Union[ExperimentEventKind, str]] = ..., experiment: _Optional[_Union[Experiment, _Mapping]] = ..., author: _Optional[str] = ..., reason: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., position: _Optional[str] = ...) -> None: ...

class DecideExperimentRequest(_message.Message):
    __slots__ = ("target", "experiment", "arm", "author", "reason", "request_id")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    target: str
    experiment: str
    arm: str
    author: str
    reason: str
    request_id: str
    def __init__(self, target: _Optional[str] = ..., experiment: _Optional[str] = ..., arm: _Optional[str] = ..., author: _Optional[str] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class StopExperimentRequest(_message.Message):
    __slots__ = ("target", "experiment", "author", "reason", "request_id")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    target: str
    experiment: str
    author: str
    reason: str
    request_id: str
    def __init__(self, target: _Optional[str] = ..., experiment: _Optional[str] = ..., author: _Optional[str] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

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
    __slots__ = ("name", "version", "content", "labels", "spec_json", "lineage_json", "label_versions")
    class LabelVersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    SPEC_JSON_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_JSON_FIELD_NUMBER: _ClassVar[int]
    LABEL_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    content: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    spec_json: bytes
    lineage_json: bytes
    label_versions: _containers.ScalarMap[str, int]
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., content: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., spec_json: _Optional[bytes] = ..., lineage_json: _Optional[bytes] = ..., label_versions: _Optional[_Mapping[str, int]] = ...) -> None: ...

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

class ListVersionsRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListVersionsResponse(_message.Message):
    __slots__ = ("versions",)
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[Program]
    def __init__(self, versions: _Optional[_Iterable[_Union[Program, _Mapping]]] = ...) -> None: ...

class SetProgramLabelRequest(_message.Message):
    __slots__ = ("name", "label", "version", "author", "reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    label: str
    version: int
    author: str
    reason: str
    def __init__(self, name: _Optional[str] = ..., label: _Optional[str] = ..., version: _Optional[int] = ..., author: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

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

class Judge(_message.Message):
    __slots__ = ("judged", "name", "program", "inputs_json", "output", "comment", "share", "usd_per_hour", "concurrency")
    JUDGED_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    INPUTS_JSON_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    USD_PER_HOUR_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    judged: str
    name: str
    program: str
    inputs_json: bytes
    output: str
    comment: str
    share: float
    usd_per_hour: float
    concurrency: int
    def __init__(self, judged: _Optional[str] = ..., name: _Optional[str] = ..., program: _Optional[str] = ..., inputs_json: _Optional[bytes] = ..., output: _Optional[str] = ..., comment: _Optional[str] = ..., share: _Optional[float] = ..., usd_per_hour: _Optional[float] = ..., concurrency: _Optional[int] = ...) -> None: ...

class AddJudgeRequest(_message.Message):
    __slots__ = ("judged", "name", "program", "inputs_json", "output", "comment", "share", "usd_per_hour", "concurrency", "author")
    JUDGED_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    INPUTS_JSON_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    USD_PER_HOUR_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    judged: str
    name: str
    program: str
    inputs_json: bytes
    output: str
    comment: str
    share: float
    usd_per_hour: float
    concurrency: int
    author: str
    def __init__(self, judged: _Optional[str] = ..., name: _Optional[str] = ..., program: _Optional[str] = ..., inputs_json: _Optional[bytes] = ..., output: _Optional[str] = ..., comment: _Optional[str] = ..., share: _Optional[float] = ..., usd_per_hour: _Optional[float] = ..., concurrency: _Optional[int] = ..., author: _Optional[str] = ...) -> None: ...

class RemoveJudgeRequest(_message.Message):
    __slots__ = ("judged", "name", "author")
    JUDGED_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    judged: str
    name: str
    author: str
    def __init__(self, judged: _Optional[str] = ..., name: _Optional[str] = ..., author: _Optional[str] = ...) -> None: ...

class RemoveJudgeResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListJudgesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListJudgesResponse(_message.Message):
    __slots__ = ("judges", "invalid")
    JUDGES_FIELD_NUMBER: _ClassVar[int]
    INVALID_FIELD_NUMBER: _ClassVar[int]
    judges: _containers.RepeatedCompositeFieldContainer[JudgeReport]
    invalid: _containers.RepeatedCompositeFieldContainer[InvalidJudge]
    def __init__(self, judges: _Optional[_Iterable[_Union[JudgeReport, _Mapping]]] = ..., invalid: _Optional[_Iterable[_Union[InvalidJudge, _Mapping]]] = ...) -> None: ...

class JudgeReport(_message.Message):
    __slots__ = ("judge", "judged", "failed", "cost_usd", "unaffordable", "unattended", "open", "problem")
    JUDGE_FIELD_NUMBER: _ClassVar[int]
    JUDGED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    COST_USD_FIELD_NUMBER: _ClassVar[int]
    UNAFFORDABLE_FIELD_NUMBER: _ClassVar[int]
    UNATTENDED_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    judge: Judge
    judged: int
    failed: int
    cost_usd: str
    unaffordable: int
    unattended: int
    open: int
    problem: str
    def __init__(self, judge: _Optional[_Union[Judge, _Mapping]] = ..., judged: _Optional[int] = ..., failed: _Optional[int] = ..., cost_usd: _Optional[str] = ..., unaffordable: _Optional[int] = ..., unattended: _Optional[int] = ..., open: _Optional[int] = ..., problem: _Optional[str] = ...) -> None: ...

class InvalidJudge(_message.Message):
    __slots__ = ("judge", "problem")
    JUDGE_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    judge: str
    problem: str
    def __init__(self, judge: _Optional[str] = ..., problem: _Optional[str] = ...) -> None: ...

class ListDatasetsRequest(_message.Message):
    __slots__ = ("prefix", "page_size", "page_token")
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    prefix: str
    page_size: int
    page_token: str
    def __init__(self, prefix: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListDatasetsResponse(_message.Message):
    __slots__ = ("datasets", "next_page_token")
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    datasets: _containers.RepeatedCompositeFieldContainer[Dataset]
    next_page_token: str
    def __init__(self, datasets: _Optional[_Iterable[_Union[Dataset, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DatasetRequest(_message.Message):
    __slots__ = ("reference",)
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    reference: str
    def __init__(self, reference: _Optional[str] = ...) -> None: ...

class Dataset(_message.Message):
    __slots__ = ("name", "version", "digest", "inputs", "examples", "size_bytes", "author", "source", "at")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    digest: str
    inputs: _containers.RepeatedScalarFieldContainer[str]
    examples: int
    size_bytes: int
    author: str
    source: str
    at: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., digest: _Optional[str] = ..., inputs: _Optional[_Iterable[str]] = ..., examples: _Optional[int] = ..., size_bytes: _Optional[int] = ..., author: _Optional[str] = ..., source: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListDatasetVersionsRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListDatasetVersionsResponse(_message.Message):
    __slots__ = ("versions",)
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[Dataset]
    def __init__(self, versions: _Optional[_Iterable[_Union[Dataset, _Mapping]]] = ...) -> None: ...

class ListDatasetExamplesRequest(_message.Message):
    __slots__ = ("reference", "page_size", "page_token")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    reference: str
    page_size: int
    page_token: str
    def __init__(self, reference: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListDatasetExamplesResponse(_message.Message):
    __slots__ = ("dataset", "examples_json", "next_page_token")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_JSON_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    dataset: Dataset
    examples_json: bytes
    next_page_token: str
    def __init__(self, dataset: _Optional[_Union[Dataset, _Mapping]] = ..., examples_json: _Optional[bytes] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class AddDatasetRequest(_message.Message):
    __slots__ = ("name", "examples_json", "inputs", "author", "source")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_JSON_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    examples_json: bytes
    inputs: _containers.RepeatedScalarFieldContainer[str]
    author: str
    source: str
    def __init__(self, name: _Optional[str] = ..., examples_json: _Optional[bytes] = ..., inputs: _Optional[_Iterable[str]] = ..., author: _Optional[str] = ..., source: _Optional[str] = ...) -> None: ...

class AddFromPredictionsRequest(_message.Message):
    __slots__ = ("program", "name", "scores", "error", "under_session", "under_token", "version", "since_s", "limit", "author")
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    UNDER_SESSION_FIELD_NUMBER: _ClassVar[int]
    UNDER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SINCE_S_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    program: str
    name: str
    scores: _containers.RepeatedScalarFieldContainer[str]
    error: str
    under_session: str
    under_token: str
    version: int
    since_s: float
    limit: int
    author: str
    def __init__(self, program: _Optional[str] = ..., name: _Optional[str] = ..., scores: _Optional[_Iterable[str]] = ..., error: _Optional[str] = ..., under_session: _Optional[str] = ..., under_token: _Optional[str] = ..., version: _Optional[int] = ..., since_s: _Optional[float] = ..., limit: _Optional[int] = ..., author: _Optional[str] = ...) -> None: ...

class DiffDatasetsRequest(_message.Message):
    __slots__ = ("before", "after")
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    before: str
    after: str
    def __init__(self, before: _Optional[str] = ..., after: _Optional[str] = ...) -> None: ...

class DatasetDiff(_message.Message):
    __slots__ = ("unchanged", "diff_json")
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    DIFF_JSON_FIELD_NUMBER: _ClassVar[int]
    unchanged: int
    diff_json: bytes
    def __init__(self, unchanged: _Optional[int] = ..., diff_json: _Optional[bytes] = ...) -> None: ...

class Recorder(_message.Message):
    __slots__ = ("program", "share", "keep", "drop", "replace", "max_records", "expires_s", "errors")
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    DROP_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    MAX_RECORDS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_S_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    program: str
    share: float
    keep: _containers.RepeatedScalarFieldContainer[str]
    drop: _containers.RepeatedScalarFieldContainer[str]
    replace: _containers.RepeatedScalarFieldContainer[str]
    max_records: int
    expires_s: int
    errors: bool
    def __init__(self, program: _Optional[str] = ..., share: _Optional[float] = ..., keep: _Optional[_Iterable[str]] = ..., drop: _Optional[_Iterable[str]] = ..., replace: _Optional[_Iterable[str]] = ..., max_records: _Optional[int] = ..., expires_s: _Optional[int] = ..., errors: _Optional[bool] = ...) -> None: ...

class SetRecorderRequest(_message.Message):
    __slots__ = ("program", "share", "keep", "drop", "replace", "max_records", "expires_s", "errors", "author")
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    DROP_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    MAX_RECORDS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_S_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    program: str
    share: float
    keep: _containers.RepeatedScalarFieldContainer[str]
    drop: _containers.RepeatedScalarFieldContainer[str]
    replace: _containers.RepeatedScalarFieldContainer[str]
    max_records: int
    expires_s: int
    errors: bool
    author: str
    def __init__(self, program: _Optional[str] = ..., share: _Optional[float] = ..., keep: _Optional[_Iterable[str]] = ..., drop: _Optional[_Iterable[str]] = ..., replace: _Optional[_Iterable[str]] = ..., max_records: _Optional[int] = ..., expires_s: _Optional[int] = ..., errors: _Optional[bool] = ..., author: _Optional[str] = ...) -> None: ...

class ListRecordersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRecordersResponse(_message.Message):
    __slots__ = ("recorders",)
    RECORDERS_FIELD_NUMBER: _ClassVar[int]
    recorders: _containers.RepeatedCompositeFieldContainer[RecorderReport]
    def __init__(self, recorders: _Optional[_Iterable[_Union[RecorderReport, _Mapping]]] = ...) -> None: ...

class RecorderReport(_message.Message):
    __slots__ = ("recorder", "records", "oldest")
    RECORDER_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_FIELD_NUMBER: _ClassVar[int]
    recorder: Recorder
    records: int
    oldest: _timestamp_pb2.Timestamp
    def __init__(self, recorder: _Optional[_Union[Recorder, _Mapping]] = ..., records: _Optional[int] = ..., oldest: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RemoveRecorderRequest(_message.Message):
    __slots__ = ("program", "erase", "author")
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    ERASE_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    program: str
    erase: bool
    author: str
    def __init__(self, program: _Optional[str] = ..., erase: _Optional[bool] = ..., author: _Optional[str] = ...) -> None: ...

class RemoveRecorderResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StartEvaluationRequest(_message.Message):
    __slots__ = ("program", "dataset", "metric", "arms", "session", "exactly", "metric_options_json", "failure_score", "repeat", "in_flight", "keep_s", "drop_content", "author", "request_id")
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    EXACTLY_FIELD_NUMBER: _ClassVar[int]
    METRIC_OPTIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    FAILURE_SCORE_FIELD_NUMBER: _ClassVar[int]
    REPEAT_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    KEEP_S_FIELD_NUMBER: _ClassVar[int]
    DROP_CONTENT_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    program: str
    dataset: str
    metric: str
    arms: _containers.RepeatedScalarFieldContainer[str]
    session: str
    exactly: str
    metric_options_json: bytes
    failure_score: float
    repeat: int
    in_flight: int
    keep_s: int
    drop_content: bool
    author: str
    request_id: str
    def __init__(self, program: _Optional[str] = ..., dataset: _Optional[str] = ..., metric: _Optional[str] = ..., arms: _Optional[_Iterable[str]] = ..., session: _Optional[str] = ..., exactly: _Optional[str] = ..., metric_options_json: _Optional[bytes] = ..., failure_score: _Optional[float] = ..., repeat: _Optional[int] = ..., in_flight: _Optional[int] = ..., keep_s: _Optional[int] = ..., drop_content: _Optional[bool] = ..., author: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class ListEvaluationsRequest(_message.Message):
    __slots__ = ("limit", "program", "page_token")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    limit: int
    program: str
    page_token: str
    def __init__(self, limit: _Optional[int] = ..., program: _Optional[str] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListEvaluationsResponse(_message.Message):
    __slots__ = ("evaluations", "next_page_token")
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    evaluations: _containers.RepeatedCompositeFieldContainer[Evaluation]
    next_page_token: str
    def __init__(self, evaluations: _Optional[_Iterable[_Union[Evaluation, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class EvaluationRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class Evaluation(_message.Message):
    __slots__ = ("id", "program", "version", "session", "token", "dataset", "dataset_version", "metric", "score", "low", "high", "count", "errors", "usage", "ended_at", "author", "record_json")
    ID_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    DATASET_VERSION_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    RECORD_JSON_FIELD_NUMBER: _ClassVar[int]
    id: str
    program: str
    version: int
    session: str
    token: str
    dataset: str
    dataset_version: int
    metric: str
    score: float
    low: float
    high: float
    count: int
    errors: int
    usage: LMUsage
    ended_at: _timestamp_pb2.Timestamp
    author: str
    record_json: bytes
    def __init__(self, id: _Optional[str] = ..., program: _Optional[str] = ..., version: _Optional[int] = ..., session: _Optional[str] = ..., token: _Optional[str] = ..., dataset: _Optional[str] = ..., dataset_version: _Optional[int] = ..., metric: _Optional[str] = ..., score: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., count: _Optional[int] = ..., errors: _Optional[int] = ..., usage: _Optional[_Union[LMUsage, _Mapping]] = ..., ended_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., author: _Optional[str] = ..., record_json: _Optional[bytes] = ...) -> None: ...

class ListEvaluationExamplesRequest(_message.Message):
    __slots__ = ("id", "page_size", "page_token")
    ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    id: str
    page_size: int
    page_token: str
    def __init__(self, id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListEvaluationExamplesResponse(_message.Message):
    __slots__ = ("examples_json", "next_page_token")
    EXAMPLES_JSON_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    examples_json: bytes
    next_page_token: str
    def __init__(self, examples_json: _Optional[bytes] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CompareEvaluationsRequest(_message.Message):
    __slots__ = ("baseline", "candidate")
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    baseline: str
    candidate: str
    def __init__(self, baseline: _Optional[str] = ..., candidate: _Optional[str] = ...) -> None: ...

class EvaluationComparison(_message.Message):
    __slots__ = ("baseline", "candidate", "difference", "low", "high", "verdict", "paired", "comparison_json")
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    PAIRED_FIELD_NUMBER: _ClassVar[int]
    COMPARISON_JSON_FIELD_NUMBER: _ClassVar[int]
    baseline: Evaluation
    candidate: Evaluation
    difference: float
    low: float
    high: float
    verdict: str
    paired: int
    comparison_json: bytes
    def __init__(self, baseline: _Optional[_Union[Evaluation, _Mapping]] = ..., candidate: _Optional[_Union[Evaluation, _Mapping]] = ..., difference: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., verdict: _Optional[str] = ..., paired: _Optional[int] = ..., comparison_json: _Optional[bytes] = ...) -> None: ...

class StartOptimizationRequest(_message.Message):
    __slots__ = ("program", "trainset", "valset", "metric", "optimizer", "options_json", "compile_options_json", "session", "max_predictions", "max_usd", "max_s", "in_flight", "priority", "lm", "label", "author", "request_id")
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    TRAINSET_FIELD_NUMBER: _ClassVar[int]
    VALSET_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    COMPILE_OPTIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    MAX_PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_USD_FIELD_NUMBER: _ClassVar[int]
    MAX_S_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    LM_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    program: str
    trainset: str
    valset: str
    metric: str
    optimizer: str
    options_json: bytes
    compile_options_json: bytes
    session: str
    max_predictions: int
    max_usd: float
    max_s: float
    in_flight: int
    priority: int
    lm: str
    label: str
    author: str
    request_id: str
    def __init__(self, program: _Optional[str] = ..., trainset: _Optional[str] = ..., valset: _Optional[str] = ..., metric: _Optional[str] = ..., optimizer: _Optional[str] = ..., options_json: _Optional[bytes] = ..., compile_options_json: _Optional[bytes] = ..., session: _Optional[str] = ..., max_predictions: _Optional[int] = ..., max_usd: _Optional[float] = ..., max_s: _Optional[float] = ..., in_flight: _Optional[int] = ..., priority: _Optional[int] = ..., lm: _Optional[str] = ..., label: _Optional[str] = ..., author: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("id", "kind", "state", "program", "session", "author", "arguments_json", "created_at", "started_at", "ended_at", "progress_json", "result_json", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_JSON_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_JSON_FIELD_NUMBER: _ClassVar[int]
    RESULT_JSON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: JobKind
    state: JobState
    program: str
    session: str
    author: str
    arguments_json: bytes
    created_at: _timestamp_pb2.Timestamp
    started_at: _timestamp_pb2.Timestamp
    ended_at: _timestamp_pb2.Timestamp
    progress_json: bytes
    result_json: bytes
    error: Error
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[_Union[JobKind, str]] = ..., state: _Optional[_Union[JobState, str]] = ..., program: _Optional[str] = ..., session: _Optional[str] = ..., author: _Optional[str] = ..., arguments_json: _Optional[bytes] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ended_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., progress_json: _Optional[bytes] = ..., result_json: _Optional[bytes] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ("kind", "limit")
    KIND_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    kind: JobKind
    limit: int
    def __init__(self, kind: _Optional[_Union[JobKind, str]] = ..., limit: _Optional[int] = ...) -> None: ...

class ListJobsResponse(_message.Message):
    __slots__ = ("jobs",)
    JOBS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    def __init__(self, jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ...) -> None: ...

class JobRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...
