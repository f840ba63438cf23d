defmodule DSPexFleet.Error do
  @moduledoc """
  The error that functions of this package return as `{:error, error}`, and that their bang variants raise.

    * `:reason` is an atom to match on, such as `:validation` or `:revision_lost`; see `t:reason/0`.
    * `:message` describes what happened, what was found and what to do.
    * `:kind` is the name of the error's class on the fleet, such as `"ValidationError"`, and `nil` for an error of this
      package or of gRPC.
    * `:fields` are the fields of the class, in the order that it declares them.
    * `:status` is the gRPC status, or `nil` if there was no answer.

  The errors of a fleet without a class there, and those that the package also returns by itself:

  | reason | means |
  | --- | --- |
  | `:gateway_unavailable` | no connection, or none that lasted, within the call's timeout |
  | `:deadline_exceeded` | connected, but the answer did not come in time; or the prediction's own deadline passed |
  | `:context_down` | the context or its connection is not running on this node |
  | `:prediction_timeout` | `await` stopped waiting; the prediction continues |
  | `:variable_not_found` | the session has no variable of this name |
  | `:invalid_value` | a value that can't be sent |
  | `:bad_answer` | the gateway sent a response that this version can't decode |
  """

  alias Dspex.Fleet.V1

  # The classes that a gateway names, each with its reason: ValidationError is :validation.
  @reasons ~w(
             AnswerTooLargeError AuthorityAwayError BindingError BridgeError CheckFailedError ConfigurationError
             DeadMessageNotFoundError DeadlineExceededError DrainingError ElixirError ElixirFailedError
             ElixirMethodNotServedError ElixirSessionNotFoundError ElixirUnavailableError ExperimentError
             ExperimentNotFoundError FencedError ForeignNamespaceError HalfWrittenError HostNotAllowedError
             IdempotencyConflictError InputError InternalError JudgeError LMAnswerError LMAnswerTruncatedError
             LMCallOutsidePredictionError LMContentRefusedError LMError LMRefusedError LMUnavailableError
             LabelMovedError LabelNotFoundError MalformedError MediaTypeError NotGrantedError OriginNotAllowedError
             OwnLMError PayloadLostError PredictionCancelledError PredictionError PredictionFailedError
             PredictionGivenUpError PredictionNotFoundError PredictionNotScorableError PredictionTimeoutError
             PredictionUnknownError ProgramError ProgramNotFoundError ProgramSpecError RequestIdConflictError
             RevisionLostError RevisionNotAppliedError RevisionNotReachedError RolloutCandidateError
             RolloutMovedError RolloutOverlapError RolloutPolicyError RolloutStateError ScoreError SessionError
             SessionNameError SessionNotFoundError SessionOwnedElsewhereError StaleTokenError StalenessExceededError
             StoreForbiddenError StoreUnavailableError StreamEndedError TooLargeError TooManyError TookTooLongError
             UnauthenticatedError UnknownModuleError UnreadableVariableError ValidationError VariableNotFoundError
             WriteNotShownError
           )
           |> Map.new(&{&1, &1 |> String.replace_suffix("Error", "") |> Macro.underscore() |> String.to_atom()})

  # By their codes.
  @statuses ~w(ok cancelled unknown invalid_argument deadline_exceeded not_found already_exists permission_denied
               resource_exhausted failed_precondition aborted out_of_range unimplemented internal unavailable data_loss
               unauthenticated)a
            |> Enum.with_index(&{&2, &1})
            |> Map.new()

  @own [:bad_answer, :context_down, :gateway_unavailable, :invalid_value]

  @typedoc """
  What happened: the name of the error's class on the fleet in snake case without `Error` (`"StaleTokenError"` is
  `:stale_token`), or this package's own reason. An answer that names no class has its gRPC status as the reason, and a class
  that this version doesn't know has `:unknown` and its name in `:kind`.
  """
  @type reason ::
          unquote(
            (Map.values(@reasons) ++ Map.values(@statuses) ++ @own)
            |> Enum.uniq()
            |> Enum.sort(:desc)
            |> Enum.reduce(&{:|, [], [&1, &2]})
          )

  @type t :: %__MODULE__{
          reason: reason,
          message: String.t(),
          kind: String.t() | nil,
          fields: [term],
          status: atom | nil
        }

  defexception [:reason, :message, kind: nil, fields: [], status: nil]

  @any_type "type.googleapis.com/dspex.fleet.v1.Error"

  @impl true
  def message(%__MODULE__{kind: kind, reason: reason, message: message}), do: "#{kind || reason}: #{message}"

  @doc "Returns the value of `{:ok, value}`; raises the error of `{:error, error}`."
  @spec unwrap!({:ok, value} | {:error, t}) :: value when value: term
  def unwrap!({:ok, value}), do: value
  def unwrap!({:error, %__MODULE__{} = error}), do: raise(error)

  @doc false
  @spec new(reason, String.t(), keyword) :: t
  def new(reason, message, rest \\ []), do: struct!(%__MODULE__{reason: reason, message: message}, rest)

  @doc false
  # A failed prediction and a rejected request of a batch carry the fleet's own record of the error.
  @spec from_wire(V1.Error.t(), atom | nil) :: t
  def from_wire(%V1.Error{kind: kind} = error, status \\ nil) do
    new(Map.get(@reasons, kind, :unknown), error.message, kind: kind, fields: fields(error.fields_json), status: status)
  end

  @doc false
  @spec from_rpc(GRPC.RPCError.t()) :: t
  def from_rpc(%GRPC.RPCError{status: code, message: message, details: details}) do
    status = Map.get(@statuses, code, :unknown)

    case Enum.find(details || [], &(&1.type_url == @any_type)) do
      nil -> new(reason(status), message || "the gateway gave no reason", status: status)
      any -> any.value |> V1.Error.decode() |> from_wire(status)
    end
  end

  @doc false
  # Returns true if the connection or the gateway failed rather than the request, which can be sent again at once.
  @spec cut?(t) :: boolean
  def cut?(%__MODULE__{reason: reason}), do: reason in [:gateway_unavailable, :draining, :stream_ended]

  defp reason(:unavailable), do: :gateway_unavailable
  defp reason(status), do: status

  defp fields(""), do: []

  defp fields(json) do
    case JSON.decode(json) do
      {:ok, fields} when is_list(fields) -> fields
      _other -> []
    end
  end
end
