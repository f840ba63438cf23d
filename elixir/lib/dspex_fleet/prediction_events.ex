defmodule DSPexFleet.PredictionEvents do
  @moduledoc false
  # The telemetry events of a prediction's life.

  alias DSPexFleet.{Handle, Prediction, Session}

  @doc "Tells that a prediction was submitted."
  @spec submitted(Handle.t(), Session.t()) :: :ok
  def submitted(handle, session) do
    metadata = %{id: handle.id, session: session.id, program: handle.program}
    :telemetry.execute([:dspex_fleet, :prediction, :submitted], %{system_time: System.system_time()}, metadata)
  end

  @doc "Tells that a prediction has ended, to each who waited for it."
  @spec ended(Handle.t(), Prediction.t()) :: :ok
  def ended(handle, prediction) do
    provenance = prediction.provenance || %{}

    measurements =
      %{
        duration: handle.submitted_at && System.monotonic_time() - handle.submitted_at,
        prompt_tokens: provenance[:prompt_tokens],
        completion_tokens: provenance[:completion_tokens],
        cost_usd: cost(provenance[:cost_usd])
      }
      |> Map.reject(fn {_name, value} -> value == nil end)

    metadata = %{
      id: handle.id,
      session: provenance[:session] || session(handle.session),
      program: provenance[:program] || handle.program,
      model: provenance[:model],
      state: prediction.state,
      error: prediction.error
    }

    :telemetry.execute([:dspex_fleet, :prediction, :ended], measurements, metadata)
  end

  # An exact decimal number, which measurements have as a float.
  defp cost(text) when is_binary(text) do
    case Float.parse(text) do
      {cost, _rest} -> cost
      :error -> nil
    end
  end

  defp cost(_unknown), do: nil

  defp session(ref) do
    case Session.resolve(ref) do
      {:ok, session} -> session.id
      {:error, _error} -> nil
    end
  end
end
