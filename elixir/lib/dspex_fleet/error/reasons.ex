defmodule DSPexFleet.Error.Reasons do
  @moduledoc false
  # The error classes that a gateway names, each with its reason: ValidationError is :validation.

  @reasons ~w(
             AnswerTooLargeError ApprovalError ApprovalNotFoundError ApprovalOutdatedError ApprovalRequiredError
             AuthorityAwayError BindingError BridgeError BulkError CheckFailedError ConfigurationError
             DataFormatError DatasetError DatasetNotFoundError DeadMessageNotFoundError DeadlineExceededError DecryptionError DrainingError
             ElixirError ElixirFailedError ElixirMethodNotServedError ElixirSessionNotFoundError
             ElixirUnavailableError EvaluationError EvaluationNotFoundError ExperimentError ExperimentNotFoundError
             FencedError ForeignNamespaceError FormExpiredError GateError GateFailedError HalfWrittenError
             HostNotAllowedError IdempotencyConflictError InputError InternalError JobNotFoundError JudgeError
             LMAnswerError LMAnswerTruncatedError LMCallOutsidePredictionError LMContentRefusedError LMError
             LMRefusedError LMUnavailableError LabelMovedError LabelNotFoundError MalformedError MediaTypeError
             MetricError NotGrantedError NotReplicatedError OptimizationError OriginNotAllowedError OwnLMError
             PageNotFoundError PayloadLostError PredictionCancelledError PredictionError PredictionFailedError
             PredictionGivenUpError PredictionNotFoundError PredictionNotReplayableError PredictionNotScorableError
             PredictionTimeoutError PredictionUnknownError ProgramError ProgramNotFoundError ProgramSpecError
             ProtectionError ReadOnlyError RecorderError RequestIdConflictError RevisionLostError
             RevisionNotAppliedError RevisionNotReachedError RolloutCandidateError RolloutMovedError
             RolloutNotFoundError RolloutOverlapError RolloutPolicyError RolloutStateError ScoreError SessionError
             SessionNameError SessionNotFoundError SessionOwnedElsewhereError SessionProtectedError StaleTokenError
             StalenessExceededError StoreForbiddenError StoreUnavailableError StreamEndedError SubmitOptionError
             TooLargeError TooManyError TookTooLongError UnauthenticatedError UnknownModuleError
             UnreadableVariableError ValidationError VariableNotFoundError WriteNotShownError
           )
           |> Map.new(&{&1, &1 |> String.replace_suffix("Error", "") |> Macro.underscore() |> String.to_atom()})

  @doc "Returns the reason of each class, by its name."
  @spec by_kind() :: %{String.t() => atom}
  def by_kind, do: @reasons

  @doc "Returns the reasons as a table in Markdown."
  @spec table() :: String.t()
  def table do
    rows =
      @reasons |> Enum.sort() |> Enum.map_join("\n", fn {kind, reason} -> "  | `#{inspect(reason)}` | `#{kind}` |" end)

    String.trim_leading("  | reason | class on the fleet |\n  | --- | --- |\n" <> rows)
  end
end
