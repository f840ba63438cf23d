defmodule DSPexFleet.Error do
  @moduledoc """
  The error that functions of this package return as `{:error, error}`, and that their bang variants raise.

    * `:reason` is an atom to match on, such as `:validation` or `:revision_lost`; see `t:reason/0`.
    * `:message` describes what happened, what was found and what to do.
    * `:kind` is the name of the error's class on the fleet, such as `"ValidationError"`, and `nil` for an error of this
      package.
    * `:fields` are the fields of the class, in the order that it declares them.
    * `:status` is the gateway's status as an atom, such as `:invalid_argument`, or `nil` if there was no answer.

  ## Reasons of this package

  | reason | means |
  | --- | --- |
  | `:gateway_unavailable` | no gateway is up, or none that lasted, within the call's timeout |
  | `:took_too_long` | a gateway is up, but its answer did not come within the call's timeout |
  | `:context_down` | the context or its connection is not running on this node |
  | `:prediction_timeout` | `await` stopped waiting; the prediction continues, unless it was to be cancelled |
  | `:revision_not_reached` | a local replica, too, has not got as far as `:at_least` in time |
  | `:session_name` | what is given as a session's id isn't text |
  | `:variable_not_found` | the session has no variable of this name |
  | `:invalid_option` | an option of a call is unknown, or has a value that it can't have |
  | `:invalid_value` | an argument that can't be sent, such as a value that JSON has no form for |
  | `:unimplemented` | the gateway is of a version that doesn't have the operation |
  | `:bad_answer` | the gateway sent a response that this version can't decode |

  ## Reasons of the fleet

  #{DSPexFleet.Error.Reasons.table()}
  """

  alias DSPexFleet.Error.Reasons

  @reasons Reasons.by_kind()

  @statuses ~w(cancelled unknown invalid_argument deadline_exceeded not_found already_exists permission_denied
               resource_exhausted failed_precondition aborted out_of_range unimplemented internal unavailable data_loss
               unauthenticated)a
            |> Map.new(&{&1 |> to_string() |> String.upcase(), &1})

  # Of an answer that isn't a gateway's own, such as that of a proxy in front of it.
  @http %{
    400 => :invalid_argument,
    401 => :unauthenticated,
    403 => :permission_denied,
    404 => :unimplemented,
    405 => :unimplemented,
    413 => :resource_exhausted,
    429 => :resource_exhausted,
    502 => :unavailable,
    503 => :unavailable,
    504 => :unavailable
  }

  @own [:bad_answer, :context_down, :gateway_unavailable, :invalid_option, :invalid_value]

  @typedoc """
  What happened: the name of the error's class on the fleet in snake case without `Error` (`"StaleTokenError"` is
  `:stale_token`), or this package's own reason. An answer that names no class has its status as the reason, and a class
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
  # The error of a response, of a failed prediction, or of a rejected request in a batch; the HTTP status is nil if it
  # came inside a response.
  @spec from_response(map, pos_integer | nil) :: t
  def from_response(wire, http_status \\ nil) do
    kind = wire["kind"]
    status = Map.get(@statuses, wire["status"]) || Map.get(@http, http_status)
    message = wire["message"] || "the gateway gave no reason"

    case Map.fetch(@reasons, kind) do
      {:ok, reason} -> new(reason, message, kind: kind, fields: fields(wire["fields"]), status: status)
      :error when is_map_key(wire, "status") or status == nil -> new(:unknown, message, kind: kind, status: status)
      :error -> new(reason(status), message, status: status)
    end
  end

  @doc false
  # Returns true if the connection or the gateway failed rather than the request, which can be sent again at once.
  @spec cut?(t) :: boolean
  def cut?(%__MODULE__{reason: reason}), do: reason in [:gateway_unavailable, :draining, :stream_ended]

  defp reason(:unavailable), do: :gateway_unavailable
  defp reason(status), do: status

  defp fields(fields) when is_list(fields), do: fields
  defp fields(_none), do: []
end
