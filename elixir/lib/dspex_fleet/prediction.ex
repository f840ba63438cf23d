defmodule DSPexFleet.Prediction do
  @moduledoc """
  A prediction and its state.

    * `:outputs` – a map by output field (a string), once it has succeeded: `prediction.outputs["answer"]`.
    * `:provenance` – what produced the outputs: `:token` and `:session` of the variables, `:program` and
      `:program_version`, `:model`, `:prompt_tokens` and `:completion_tokens`, `:staleness_s`, `:outage`, `:worker`,
      `:arms` (of rollouts, each a map of `:rollout`, the id, `:arm`, `:stage` and `:target`), and the whole `:record`.
    * `:error` – the error of a prediction that failed or was cancelled; `DSPexFleet.await/2` returns it as
      `{:error, error}`.
  """

  alias Dspex.Fleet.V1
  alias DSPexFleet.{Error, Token, Values}

  @type state :: :queued | :running | :succeeded | :failed | :cancelled | :unknown
  @type t :: %__MODULE__{
          id: String.t(),
          state: state,
          outputs: %{String.t() => term} | nil,
          provenance: map | nil,
          error: Error.t() | nil
        }

  defstruct [:id, :state, :outputs, :provenance, :error]

  @states %{
    PREDICTION_STATE_QUEUED: :queued,
    PREDICTION_STATE_RUNNING: :running,
    PREDICTION_STATE_SUCCEEDED: :succeeded,
    PREDICTION_STATE_FAILED: :failed,
    PREDICTION_STATE_CANCELLED: :cancelled
  }

  @doc "Returns true if a prediction has succeeded, failed or been cancelled."
  @spec ended?(t) :: boolean
  def ended?(%__MODULE__{state: state}), do: state in [:succeeded, :failed, :cancelled]

  @doc false
  # The error of a prediction that failed or was cancelled, otherwise the prediction.
  @spec outcome(t) :: {:ok, t} | {:error, Error.t()}
  def outcome(%__MODULE__{state: :failed} = failed) do
    {:error, failed.error || Error.new(:prediction_failed, "prediction #{failed.id} failed without a reason")}
  end

  def outcome(%__MODULE__{state: :cancelled} = cancelled) do
    {:error, cancelled.error || Error.new(:prediction_cancelled, "prediction #{cancelled.id} was cancelled")}
  end

  def outcome(%__MODULE__{} = prediction), do: {:ok, prediction}

  @doc false
  @spec state(atom | integer) :: state
  def state(wire), do: Map.get(@states, wire, :unknown)

  @doc false
  @spec from_wire(V1.Prediction.t()) :: {:ok, t} | {:error, Error.t()}
  def from_wire(%V1.Prediction{} = wire) do
    with {:ok, outputs} <- json(wire.outputs_json),
         {:ok, provenance} <- provenance(wire.provenance) do
      {:ok,
       %__MODULE__{
         id: wire.id,
         state: state(wire.state),
         outputs: outputs,
         provenance: provenance,
         error: wire.error && Error.from_wire(wire.error)
       }}
    end
  end

  defp provenance(nil), do: {:ok, nil}

  defp provenance(%V1.Provenance{} = wire) do
    with {:ok, record} <- json(wire.record_json) do
      fields = wire |> Map.from_struct() |> Map.drop([:record_json, :token, :__unknown_fields__])
      {:ok, Map.merge(fields, %{token: token(wire.token), arms: Enum.map(wire.arms, &arm/1), record: record})}
    end
  end

  defp arm(%V1.Arm{} = wire), do: Map.take(wire, [:rollout, :arm, :stage, :target])

  # A prediction without a session has no token.
  defp token(text) do
    case Token.parse(text) do
      {:ok, token} -> token
      :error -> nil
    end
  end

  defp json(""), do: {:ok, nil}
  defp json(text), do: Values.decode(text)
end
