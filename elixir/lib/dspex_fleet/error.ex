defmodule DSPexFleet.Error do
  @moduledoc """
  The error that functions of this package return as `{:error, error}`, and that their bang variants raise.

    * `:kind` is the name of the error's class on the fleet, such as `"ValidationError"` or `"RevisionLostError"`; match
      on it to handle specific errors. The client's own kinds are below; an answer that names no class has its gRPC status
      in camel case, such as `"Unauthenticated"`.
    * `:message` describes what happened, what was found and what to do.
    * `:fields` are the fields of the class, in the order that it declares them.
    * `:status` is the gRPC status, or `nil` if there was no answer.

  | kind | means |
  | --- | --- |
  | `"GatewayUnavailable"` | no connection, or none that lasted, within the call's timeout |
  | `"DeadlineExceededError"` | connected, but the answer did not come in time |
  | `"ContextDown"` | the context or its connection is not running |
  | `"PredictionTimeoutError"` | `await` stopped waiting; the prediction continues |
  | `"VariableNotFoundError"` | the session has no variable of this name |
  | `"BadAnswer"` | the gateway sent a response that this version can't decode |
  """

  alias Dspex.Fleet.V1

  @type t :: %__MODULE__{kind: String.t(), message: String.t(), fields: [term], status: atom | nil}

  defexception [:kind, :message, fields: [], status: nil]

  @any_type "type.googleapis.com/dspex.fleet.v1.Error"

  @impl true
  def message(%__MODULE__{kind: kind, message: message}), do: "#{kind}: #{message}"

  @doc "Returns the value of `{:ok, value}`; raises the error of `{:error, error}`."
  @spec unwrap!({:ok, value} | {:error, t}) :: value when value: term
  def unwrap!({:ok, value}), do: value
  def unwrap!({:error, %__MODULE__{} = error}), do: raise(error)

  @doc false
  @spec new(String.t(), String.t(), keyword) :: t
  def new(kind, message, rest \\ []) do
    struct!(%__MODULE__{kind: kind, message: message}, rest)
  end

  @doc false
  # A failed prediction and a rejected request of a batch carry the fleet's own record of the error.
  @spec from_wire(V1.Error.t(), atom | nil) :: t
  def from_wire(%V1.Error{} = error, status \\ nil) do
    new(error.kind, error.message, fields: fields(error.fields_json), status: status)
  end

  @doc false
  @spec from_rpc(GRPC.RPCError.t()) :: t
  def from_rpc(%GRPC.RPCError{status: code, message: message, details: details}) do
    case Enum.find(details || [], &(&1.type_url == @any_type)) do
      nil -> new(kind(code), message || "the gateway gave no reason", status: status(code))
      any -> any.value |> V1.Error.decode() |> from_wire(status(code))
    end
  end

  @doc false
  # Returns true if the connection or the gateway failed rather than the request, which can be sent again at once.
  @spec cut?(t) :: boolean
  def cut?(%__MODULE__{kind: kind}), do: kind in ["GatewayUnavailable", "DrainingError", "StreamEndedError"]

  defp fields(""), do: []

  defp fields(json) do
    case JSON.decode(json) do
      {:ok, fields} when is_list(fields) -> fields
      _other -> []
    end
  end

  defp kind(14), do: "GatewayUnavailable"
  defp kind(code), do: code |> status() |> Atom.to_string() |> Macro.camelize()

  @statuses Map.new(
              ~w(ok cancelled unknown invalid_argument deadline_exceeded not_found already_exists permission_denied
                 resource_exhausted failed_precondition aborted out_of_range unimplemented internal unavailable
                 data_loss unauthenticated)a
              |> Enum.with_index(),
              fn {name, code} -> {code, name} end
            )

  defp status(code), do: Map.get(@statuses, code, :unknown)
end
