defmodule Dspex.Fleet.V1.VariableType do
  @moduledoc false

  use Protobuf,
    enum: true,
    full_name: "dspex.fleet.v1.VariableType",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :VARIABLE_TYPE_UNSPECIFIED, 0
  field :VARIABLE_TYPE_FLOAT, 1
  field :VARIABLE_TYPE_INTEGER, 2
  field :VARIABLE_TYPE_STRING, 3
  field :VARIABLE_TYPE_BOOLEAN, 4
  field :VARIABLE_TYPE_CHOICE, 5
  field :VARIABLE_TYPE_MODULE, 6
  field :VARIABLE_TYPE_EMBEDDING, 7
  field :VARIABLE_TYPE_TENSOR, 8
end

defmodule Dspex.Fleet.V1.PredictionState do
  @moduledoc false

  use Protobuf,
    enum: true,
    full_name: "dspex.fleet.v1.PredictionState",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :PREDICTION_STATE_UNSPECIFIED, 0
  field :PREDICTION_STATE_QUEUED, 1
  field :PREDICTION_STATE_RUNNING, 2
  field :PREDICTION_STATE_SUCCEEDED, 3
  field :PREDICTION_STATE_FAILED, 4
  field :PREDICTION_STATE_CANCELLED, 5
end

defmodule Dspex.Fleet.V1.RolloutState do
  @moduledoc false

  use Protobuf,
    enum: true,
    full_name: "dspex.fleet.v1.RolloutState",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :ROLLOUT_STATE_UNSPECIFIED, 0
  field :ROLLOUT_STATE_NEW, 1
  field :ROLLOUT_STATE_RUNNING, 2
  field :ROLLOUT_STATE_PAUSED, 3
  field :ROLLOUT_STATE_ROLLED_BACK, 4
  field :ROLLOUT_STATE_PROMOTED, 5
end

defmodule Dspex.Fleet.V1.RolloutEventKind do
  @moduledoc false

  use Protobuf,
    enum: true,
    full_name: "dspex.fleet.v1.RolloutEventKind",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :ROLLOUT_EVENT_KIND_UNSPECIFIED, 0
  field :ROLLOUT_EVENT_KIND_STARTED, 1
  field :ROLLOUT_EVENT_KIND_STAGE, 2
  field :ROLLOUT_EVENT_KIND_PAUSED, 3
  field :ROLLOUT_EVENT_KIND_RESUMED, 4
  field :ROLLOUT_EVENT_KIND_PROMOTED, 5
  field :ROLLOUT_EVENT_KIND_ROLLED_BACK, 6
  field :ROLLOUT_EVENT_KIND_SUPERSEDED, 7
end

defmodule Dspex.Fleet.V1.Variable do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.Variable",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :name, 1, type: :string
  field :type, 2, type: Dspex.Fleet.V1.VariableType, enum: true
  field :value_json, 3, type: :bytes, json_name: "valueJson"
  field :constraints_json, 4, type: :bytes, json_name: "constraintsJson"
end

defmodule Dspex.Fleet.V1.Change do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.Change",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  oneof :change, 0

  field :name, 1, type: :string
  field :value_json, 2, type: :bytes, json_name: "valueJson", oneof: 0
  field :delete, 3, type: :bool, oneof: 0
  field :type, 4, type: Dspex.Fleet.V1.VariableType, enum: true
  field :constraints_json, 5, proto3_optional: true, type: :bytes, json_name: "constraintsJson"
end

defmodule Dspex.Fleet.V1.PublishRequest do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.PublishRequest",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :session, 1, type: :string
  field :changes, 2, repeated: true, type: Dspex.Fleet.V1.Change
  field :expected, 3, type: :string
  field :replace, 4, type: :bool
  field :author, 5, type: :string
  field :reason, 6, type: :string
  field :request_id, 7, type: :string, json_name: "requestId"
end

defmodule Dspex.Fleet.V1.PublishResponse do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.PublishResponse",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :token, 1, type: :string
end

defmodule Dspex.Fleet.V1.GetVariablesRequest do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.GetVariablesRequest",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  oneof :requirement, 0

  field :session, 1, type: :string
  field :names, 2, repeated: true, type: :string
  field :at_least, 3, type: :string, json_name: "atLeast", oneof: 0
  field :exactly, 4, type: :string, oneof: 0
  field :wait_s, 5, type: :double, json_name: "waitS"
end

defmodule Dspex.Fleet.V1.Snapshot do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.Snapshot",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :session, 1, type: :string
  field :token, 2, type: :string
  field :variables, 3, repeated: true, type: Dspex.Fleet.V1.Variable
  field :confirmed_at, 4, type: Google.Protobuf.Timestamp, json_name: "confirmedAt"
  field :authority, 5, type: :string
  field :staleness_s, 6, type: :double, json_name: "stalenessS"
  field :rollout, 7, type: Dspex.Fleet.V1.Rollout
  field :staged, 8, repeated: true, type: Dspex.Fleet.V1.VariableChange
end

defmodule Dspex.Fleet.V1.WatchRequest do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.WatchRequest",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :session, 1, type: :string
  field :names, 2, repeated: true, type: :string
  field :after, 3, type: :string
end

defmodule Dspex.Fleet.V1.HistoryRequest do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.HistoryRequest",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :session, 1, type: :string
  field :limit, 2, type: :uint32
end

defmodule Dspex.Fleet.V1.HistoryResponse do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.HistoryResponse",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :revisions, 1, repeated: true, type: Dspex.Fleet.V1.Revision
end

defmodule Dspex.Fleet.V1.Revision do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.Revision",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :token, 1, type: :string
  field :at, 2, type: Google.Protobuf.Timestamp
  field :author, 3, type: :string
  field :reason, 4, type: :string
  field :changes, 5, repeated: true, type: Dspex.Fleet.V1.VariableChange
end

defmodule Dspex.Fleet.V1.VariableChange do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.VariableChange",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :name, 1, type: :string
  field :before, 2, type: Dspex.Fleet.V1.Variable
  field :after, 3, type: Dspex.Fleet.V1.Variable
end

defmodule Dspex.Fleet.V1.RollbackRequest do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.RollbackRequest",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :session, 1, type: :string
  field :to, 2, type: :string
  field :expected, 3, type: :string
  field :author, 4, type: :string
  field :reason, 5, type: :string
  field :request_id, 6, type: :string, json_name: "requestId"
end

defmodule Dspex.Fleet.V1.SubmitRequest do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.SubmitRequest",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  oneof :requirement, 0

  field :program, 1, type: :string
  field :session, 2, type: :string
  field :inputs_json, 3, type: :bytes, json_name: "inputsJson"
  field :at_least, 4, type: :string, json_name: "atLeast", oneof: 0
  field :exactly, 5, type: :string, oneof: 0
  field :deadline_s, 6, type: :double, json_name: "deadlineS"
  field :idempotency_key, 7, type: :string, json_name: "idempotencyKey"
  field :priority, 8, type: :uint32
  field :max_staleness_s, 9, proto3_optional: true, type: :double, json_name: "maxStalenessS"
  field :stream, 10, type: :bool
  field :outage, 11, type: :string
  field :key, 12, type: :string
  field :attributes_json, 13, type: :bytes, json_name: "attributesJson"
end

defmodule Dspex.Fleet.V1.Handle do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.Handle",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :id, 1, type: :string
end

defmodule Dspex.Fleet.V1.SubmitBatchRequest do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.SubmitBatchRequest",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :requests, 1, repeated: true, type: Dspex.Fleet.V1.SubmitRequest
end

defmodule Dspex.Fleet.V1.SubmitBatchResponse do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.SubmitBatchResponse",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :submitted, 1, repeated: true, type: Dspex.Fleet.V1.Submitted
end

defmodule Dspex.Fleet.V1.Submitted do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.Submitted",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  oneof :outcome, 0

  field :handle, 1, type: Dspex.Fleet.V1.Handle, oneof: 0
  field :error, 2, type: Dspex.Fleet.V1.Error, oneof: 0
end

defmodule Dspex.Fleet.V1.PredictionRequest do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.PredictionRequest",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :id, 1, type: :string
end

defmodule Dspex.Fleet.V1.StreamRequest do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.StreamRequest",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :id, 1, type: :string
  field :after, 2, type: :string
end

defmodule Dspex.Fleet.V1.AwaitRequest do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.AwaitRequest",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :id, 1, type: :string
  field :timeout_s, 2, type: :double, json_name: "timeoutS"
end

defmodule Dspex.Fleet.V1.Prediction do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.Prediction",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :id, 1, type: :string
  field :state, 2, type: Dspex.Fleet.V1.PredictionState, enum: true
  field :outputs_json, 3, type: :bytes, json_name: "outputsJson"
  field :provenance, 4, type: Dspex.Fleet.V1.Provenance
  field :error, 5, type: Dspex.Fleet.V1.Error
end

defmodule Dspex.Fleet.V1.PredictionEvent do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.PredictionEvent",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  oneof :event, 0

  field :state, 1, type: Dspex.Fleet.V1.PredictionState, enum: true, oneof: 0
  field :piece, 2, type: Dspex.Fleet.V1.OutputPiece, oneof: 0
  field :ended, 3, type: Dspex.Fleet.V1.Prediction, oneof: 0
  field :position, 4, type: :string
end

defmodule Dspex.Fleet.V1.OutputPiece do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.OutputPiece",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :field, 1, type: :string
  field :text, 2, type: :string
  field :predictor, 3, type: :string
  field :call, 4, type: :uint32
  field :attempt, 5, type: :uint32
  field :replaced, 6, type: :bool
end

defmodule Dspex.Fleet.V1.Provenance do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.Provenance",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :session, 1, type: :string
  field :token, 2, type: :string
  field :digest, 3, type: :string
  field :program, 4, type: :string
  field :program_version, 5, type: :uint64, json_name: "programVersion"
  field :model, 6, type: :string
  field :prompt_tokens, 7, type: :uint64, json_name: "promptTokens"
  field :completion_tokens, 8, type: :uint64, json_name: "completionTokens"
  field :staleness_s, 9, type: :double, json_name: "stalenessS"
  field :outage, 10, type: :bool
  field :worker, 11, type: :string
  field :cost_usd, 12, proto3_optional: true, type: :string, json_name: "costUsd"
  field :arms, 13, repeated: true, type: Dspex.Fleet.V1.Arm
  field :record_json, 15, type: :bytes, json_name: "recordJson"
end

defmodule Dspex.Fleet.V1.Arm do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.Arm",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :rollout, 1, type: :string
  field :arm, 2, type: :string
  field :stage, 3, type: :uint32
  field :target, 4, type: :string
end

defmodule Dspex.Fleet.V1.Rollout do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.Rollout",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :target, 1, type: :string
  field :id, 2, type: :string
  field :state, 3, type: Dspex.Fleet.V1.RolloutState, enum: true
  field :stage, 4, type: :uint32
  field :share, 5, type: :double
  field :baseline, 6, type: :string
  field :candidate, 7, type: :string
  field :sequence, 8, type: :uint64
end

defmodule Dspex.Fleet.V1.StartRolloutRequest do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.StartRolloutRequest",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  oneof :candidate, 0

  field :target, 1, type: :string
  field :values_json, 2, type: :bytes, json_name: "valuesJson", oneof: 0
  field :version, 3, type: :uint64, oneof: 0
  field :policy_json, 4, type: :bytes, json_name: "policyJson"
  field :author, 5, type: :string
  field :reason, 6, type: :string
  field :request_id, 7, type: :string, json_name: "requestId"
end

defmodule Dspex.Fleet.V1.ListRolloutsRequest do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.ListRolloutsRequest",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3
end

defmodule Dspex.Fleet.V1.ListRolloutsResponse do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.ListRolloutsResponse",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :rollouts, 1, repeated: true, type: Dspex.Fleet.V1.Rollout
end

defmodule Dspex.Fleet.V1.ShowRolloutRequest do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.ShowRolloutRequest",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :target, 1, type: :string
end

defmodule Dspex.Fleet.V1.RolloutReport do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.RolloutReport",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :rollout, 1, type: Dspex.Fleet.V1.Rollout
  field :report_json, 2, type: :bytes, json_name: "reportJson"
end

defmodule Dspex.Fleet.V1.WatchRolloutRequest do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.WatchRolloutRequest",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :target, 1, type: :string
  field :after, 2, type: :string
end

defmodule Dspex.Fleet.V1.StepRolloutRequest do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.StepRolloutRequest",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :target, 1, type: :string
  field :author, 2, type: :string
  field :reason, 3, type: :string
  field :request_id, 4, type: :string, json_name: "requestId"
end

defmodule Dspex.Fleet.V1.RolloutEvent do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.RolloutEvent",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :kind, 1, type: Dspex.Fleet.V1.RolloutEventKind, enum: true
  field :rollout, 2, type: Dspex.Fleet.V1.Rollout
  field :author, 3, type: :string
  field :reason, 4, type: :string
  field :detail_json, 5, type: :bytes, json_name: "detailJson"
  field :at, 6, type: Google.Protobuf.Timestamp
  field :position, 7, type: :string
end

defmodule Dspex.Fleet.V1.Error do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.Error",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :kind, 1, type: :string
  field :message, 2, type: :string
  field :fields_json, 3, type: :bytes, json_name: "fieldsJson"
end

defmodule Dspex.Fleet.V1.RegisterRequest do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.RegisterRequest",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :name, 1, type: :string
  field :spec_json, 2, type: :bytes, json_name: "specJson"
  field :labels, 3, repeated: true, type: :string
end

defmodule Dspex.Fleet.V1.Program do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.Program",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :name, 1, type: :string
  field :version, 2, type: :uint64
  field :content, 3, type: :string
  field :labels, 4, repeated: true, type: :string
  field :spec_json, 5, type: :bytes, json_name: "specJson"
end

defmodule Dspex.Fleet.V1.ListProgramsRequest do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.ListProgramsRequest",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :prefix, 1, type: :string
  field :page_size, 2, type: :uint32, json_name: "pageSize"
  field :page_token, 3, type: :string, json_name: "pageToken"
end

defmodule Dspex.Fleet.V1.ListProgramsResponse do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.ListProgramsResponse",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :programs, 1, repeated: true, type: Dspex.Fleet.V1.Program
  field :next_page_token, 2, type: :string, json_name: "nextPageToken"
end

defmodule Dspex.Fleet.V1.GetProgramRequest do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.GetProgramRequest",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :reference, 1, type: :string
end

defmodule Dspex.Fleet.V1.CostReportRequest do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.CostReportRequest",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :by, 1, type: :string
  field :since_s, 2, proto3_optional: true, type: :double, json_name: "sinceS"
  field :limit, 3, type: :uint32
end

defmodule Dspex.Fleet.V1.CostReport do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.CostReport",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :by, 1, type: :string
  field :since, 2, type: Google.Protobuf.Timestamp
  field :until, 3, type: Google.Protobuf.Timestamp
  field :rows, 4, repeated: true, type: Dspex.Fleet.V1.CostRow
  field :total, 5, type: Dspex.Fleet.V1.CostRow
  field :omitted, 6, type: :uint32
end

defmodule Dspex.Fleet.V1.CostRow do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.CostRow",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :program, 1, proto3_optional: true, type: :string
  field :session, 2, proto3_optional: true, type: :string
  field :token, 3, proto3_optional: true, type: :string
  field :profile, 4, proto3_optional: true, type: :string
  field :predictions, 5, type: :uint64
  field :usage, 6, type: Dspex.Fleet.V1.LMUsage
  field :failed, 7, type: :uint64
  field :failed_usage, 8, type: Dspex.Fleet.V1.LMUsage, json_name: "failedUsage"
end

defmodule Dspex.Fleet.V1.LMUsage do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.LMUsage",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :calls, 1, type: :uint64
  field :unpriced_calls, 2, type: :uint64, json_name: "unpricedCalls"
  field :input_tokens, 3, type: :uint64, json_name: "inputTokens"
  field :cached_input_tokens, 4, type: :uint64, json_name: "cachedInputTokens"
  field :output_tokens, 5, type: :uint64, json_name: "outputTokens"
  field :reasoning_tokens, 6, type: :uint64, json_name: "reasoningTokens"
  field :cost_usd, 7, proto3_optional: true, type: :string, json_name: "costUsd"
end

defmodule Dspex.Fleet.V1.ScoreRequest do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.ScoreRequest",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :id, 1, type: :string
  field :name, 2, type: :string
  field :value_json, 3, type: :bytes, json_name: "valueJson"
  field :comment, 4, type: :string
  field :scorer, 5, type: :string
end

defmodule Dspex.Fleet.V1.PredictionScore do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.PredictionScore",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :name, 1, type: :string
  field :value_json, 2, type: :bytes, json_name: "valueJson"
  field :comment, 3, type: :string
  field :scorer, 4, type: :string
  field :at, 5, type: Google.Protobuf.Timestamp
end

defmodule Dspex.Fleet.V1.ListScoresRequest do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.ListScoresRequest",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :id, 1, type: :string
end

defmodule Dspex.Fleet.V1.ListScoresResponse do
  @moduledoc false

  use Protobuf,
    full_name: "dspex.fleet.v1.ListScoresResponse",
    protoc_gen_elixir_version: "0.17.0",
    syntax: :proto3

  field :scores, 1, repeated: true, type: Dspex.Fleet.V1.PredictionScore
end

defmodule Dspex.Fleet.V1.Variables.Service do
  @moduledoc false

  use GRPC.Service, name: "dspex.fleet.v1.Variables", protoc_gen_elixir_version: "0.17.0"

  rpc :Publish, Dspex.Fleet.V1.PublishRequest, Dspex.Fleet.V1.PublishResponse

  rpc :Get, Dspex.Fleet.V1.GetVariablesRequest, Dspex.Fleet.V1.Snapshot

  rpc :Watch, Dspex.Fleet.V1.WatchRequest, stream(Dspex.Fleet.V1.Snapshot)

  rpc :History, Dspex.Fleet.V1.HistoryRequest, Dspex.Fleet.V1.HistoryResponse

  rpc :Rollback, Dspex.Fleet.V1.RollbackRequest, Dspex.Fleet.V1.PublishResponse
end

defmodule Dspex.Fleet.V1.Variables.Stub do
  @moduledoc false

  use GRPC.Stub, service: Dspex.Fleet.V1.Variables.Service
end

defmodule Dspex.Fleet.V1.Predictions.Service do
  @moduledoc false

  use GRPC.Service, name: "dspex.fleet.v1.Predictions", protoc_gen_elixir_version: "0.17.0"

  rpc :Submit, Dspex.Fleet.V1.SubmitRequest, Dspex.Fleet.V1.Handle

  rpc :SubmitBatch, Dspex.Fleet.V1.SubmitBatchRequest, Dspex.Fleet.V1.SubmitBatchResponse

  rpc :Get, Dspex.Fleet.V1.PredictionRequest, Dspex.Fleet.V1.Prediction

  rpc :Await, Dspex.Fleet.V1.AwaitRequest, Dspex.Fleet.V1.Prediction

  rpc :Stream, Dspex.Fleet.V1.StreamRequest, stream(Dspex.Fleet.V1.PredictionEvent)

  rpc :Cancel, Dspex.Fleet.V1.PredictionRequest, Dspex.Fleet.V1.Prediction
end

defmodule Dspex.Fleet.V1.Predictions.Stub do
  @moduledoc false

  use GRPC.Stub, service: Dspex.Fleet.V1.Predictions.Service
end

defmodule Dspex.Fleet.V1.Programs.Service do
  @moduledoc false

  use GRPC.Service, name: "dspex.fleet.v1.Programs", protoc_gen_elixir_version: "0.17.0"

  rpc :Register, Dspex.Fleet.V1.RegisterRequest, Dspex.Fleet.V1.Program

  rpc :List, Dspex.Fleet.V1.ListProgramsRequest, Dspex.Fleet.V1.ListProgramsResponse

  rpc :Get, Dspex.Fleet.V1.GetProgramRequest, Dspex.Fleet.V1.Program
end

defmodule Dspex.Fleet.V1.Programs.Stub do
  @moduledoc false

  use GRPC.Stub, service: Dspex.Fleet.V1.Programs.Service
end

defmodule Dspex.Fleet.V1.Costs.Service do
  @moduledoc false

  use GRPC.Service, name: "dspex.fleet.v1.Costs", protoc_gen_elixir_version: "0.17.0"

  rpc :Report, Dspex.Fleet.V1.CostReportRequest, Dspex.Fleet.V1.CostReport
end

defmodule Dspex.Fleet.V1.Costs.Stub do
  @moduledoc false

  use GRPC.Stub, service: Dspex.Fleet.V1.Costs.Service
end

defmodule Dspex.Fleet.V1.Scores.Service do
  @moduledoc false

  use GRPC.Service, name: "dspex.fleet.v1.Scores", protoc_gen_elixir_version: "0.17.0"

  rpc :Score, Dspex.Fleet.V1.ScoreRequest, Dspex.Fleet.V1.PredictionScore

  rpc :List, Dspex.Fleet.V1.ListScoresRequest, Dspex.Fleet.V1.ListScoresResponse
end

defmodule Dspex.Fleet.V1.Scores.Stub do
  @moduledoc false

  use GRPC.Stub, service: Dspex.Fleet.V1.Scores.Service
end

defmodule Dspex.Fleet.V1.Rollouts.Service do
  @moduledoc false

  use GRPC.Service, name: "dspex.fleet.v1.Rollouts", protoc_gen_elixir_version: "0.17.0"

  rpc :Start, Dspex.Fleet.V1.StartRolloutRequest, Dspex.Fleet.V1.Rollout

  rpc :List, Dspex.Fleet.V1.ListRolloutsRequest, Dspex.Fleet.V1.ListRolloutsResponse

  rpc :Show, Dspex.Fleet.V1.ShowRolloutRequest, Dspex.Fleet.V1.RolloutReport

  rpc :Watch, Dspex.Fleet.V1.WatchRolloutRequest, stream(Dspex.Fleet.V1.RolloutEvent)

  rpc :Advance, Dspex.Fleet.V1.StepRolloutRequest, Dspex.Fleet.V1.Rollout

  rpc :Pause, Dspex.Fleet.V1.StepRolloutRequest, Dspex.Fleet.V1.Rollout

  rpc :Resume, Dspex.Fleet.V1.StepRolloutRequest, Dspex.Fleet.V1.Rollout

  rpc :Abort, Dspex.Fleet.V1.StepRolloutRequest, Dspex.Fleet.V1.Rollout
end

defmodule Dspex.Fleet.V1.Rollouts.Stub do
  @moduledoc false

  use GRPC.Stub, service: Dspex.Fleet.V1.Rollouts.Service
end
