defmodule DSPexFleet.PredictionWait do
  @moduledoc false
  # Waiting for the ends of predictions: in steps, since proxies close connections that stay silent, and until a
  # deadline in milliseconds of monotonic time or `:infinity`.

  alias DSPexFleet.{Call, Error, Handle, Prediction, PredictionEvents}

  # The longest wait of one request, whatever the caller's timeout.
  @step_ms 25_000

  @default_ms 60_000
  @options [
    await: [type: :timeout, default: @default_ms, doc: "Milliseconds to wait for the result, or `:infinity`."],
    cancel_on_timeout: [
      type: :boolean,
      default: false,
      doc: "Whether the prediction is cancelled when that time is over, and not left to go on."
    ]
  ]

  @type result :: {:ok, Prediction.t()} | {:error, Error.t()}

  @doc "Returns the options of waiting."
  @spec options() :: keyword
  def options, do: @options

  @doc "Returns the default of the longest wait in milliseconds."
  @spec default_timeout() :: pos_integer
  def default_timeout, do: @default_ms

  @doc "Waits for a prediction; one that `cancel?` is true for is cancelled when the time is over."
  @spec await(Handle.t(), timeout, boolean) :: result
  def await(handle, timeout, cancel?), do: await_until(handle, deadline(timeout), cancel?)

  @doc "Waits for many predictions at a time, all until the same deadline, and returns their results in the same order."
  @spec await_many([Handle.t()], timeout, boolean) :: [result]
  def await_many(handles, timeout, cancel?) do
    deadline = deadline(timeout)

    handles
    |> Task.async_stream(&await_until(&1, deadline, cancel?),
      timeout: :infinity,
      max_concurrency: max(length(handles), 1)
    )
    |> Enum.map(fn {:ok, result} -> result end)
  end

  defp await_until(handle, deadline, cancel?) do
    with {:ok, prediction} <- await_step(handle, deadline) do
      cond do
        Prediction.ended?(prediction) ->
          finished(handle, prediction)

        left(deadline) > 0 ->
          await_until(handle, deadline, cancel?)

        cancel? ->
          cancel_late(handle)

        true ->
          {:error, timed_out(handle.id, "is #{prediction.state} still and goes on. Await it again, or cancel it.")}
      end
    end
  end

  defp await_step(handle, deadline) do
    step = deadline |> left() |> min(@step_ms) |> max(1)
    build = fn _session -> %{"id" => handle.id, "timeout_s" => step / 1_000} end
    timeout = step + Call.default_timeout()

    with {:ok, answer} <- Call.run(handle.session, :await, "Predictions.Await", build, timeout, waits?: true),
         do: {:ok, Prediction.from_message(answer)}
  end

  defp finished(handle, prediction) do
    PredictionEvents.ended(handle, prediction)
    Prediction.outcome(prediction)
  end

  # It may have ended meanwhile.
  defp cancel_late(handle) do
    with {:ok, prediction} <- DSPexFleet.cancel(handle) do
      if prediction.state == :succeeded,
        do: finished(handle, prediction),
        else: {:error, timed_out(handle.id, "took too long and was cancelled")}
    end
  end

  defp timed_out(id, what), do: Error.new(:prediction_timeout, "prediction #{id} #{what}", fields: [id])

  defp deadline(:infinity), do: :infinity
  defp deadline(timeout), do: System.monotonic_time(:millisecond) + timeout

  # Atoms are above all numbers, so that the smaller of this and a number is the number.
  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)
end
