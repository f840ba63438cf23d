defmodule DSPexFleet.PredictionStream do
  @moduledoc false
  # A prediction's events as a stream that always ends with the outcome. If its connection is lost, the stream is
  # reopened after the last piece received; if that yields no piece, the outcome is awaited.

  alias DSPexFleet.{Call, Connection, Error, Handle, Prediction, PredictionEvents, Session}

  @spec stream(Handle.t()) :: Enumerable.t()
  def stream(%Handle{} = handle), do: follow(handle, nil)

  defp follow(handle, position) do
    [handle]
    |> Stream.flat_map(&open(&1, position))
    |> Stream.transform({:opened, position}, &read(&1, &2, handle))
  end

  # The gateway's messages, then `:closed`, to detect a stream that ends before the prediction.
  defp open(handle, position) do
    with {:ok, session} <- Session.resolve(handle.session),
         {:ok, choice} <- Connection.choose(session.connection, Call.default_timeout()) do
      choice |> Call.stream("Predictions.Stream", %{"id" => handle.id, "after" => position}) |> Stream.concat([:closed])
    else
      {:error, %Error{} = error} -> [{:error, error}]
    end
  end

  # The accumulator is `:ended`, or `{:moved | :opened, position}`: whether a piece came since the stream was opened,
  # and the position of the last one.
  defp read(_message, :ended, _handle), do: {:halt, :ended}
  defp read(:open, reading, _handle), do: {[], reading}
  defp read({:ok, message}, reading, handle), do: event(message, advance(message, reading), handle)
  defp read({_failed, %Error{} = error}, reading, handle), do: handle_error(error, reading, handle)
  defp read(:closed, reading, handle), do: resume(reading, handle)

  defp advance(%{"position" => position}, _reading) when position != "", do: {:moved, position}
  defp advance(_message, reading), do: reading

  defp event(%{"state" => state}, reading, _handle), do: {[{:ok, {:state, Prediction.state(state)}}], reading}

  defp event(%{"piece" => piece}, reading, _handle),
    do: {[{:ok, {:piece, piece["field"], piece["text"]}}], reading}

  defp event(%{"ended" => message}, _reading, handle) do
    prediction = Prediction.from_message(message)
    PredictionEvents.ended(handle, prediction)
    final(Prediction.outcome(prediction))
  end

  defp event(_from_a_newer_gateway, reading, _handle), do: {[], reading}

  defp handle_error(error, reading, handle) do
    if Error.cut?(error), do: resume(reading, handle), else: final({:error, error})
  end

  defp resume({:moved, position}, handle), do: {follow(handle, position), :ended}
  defp resume({:opened, _position}, handle), do: await(handle)

  defp await(handle), do: handle |> DSPexFleet.await(:infinity) |> final()

  defp final({:ok, prediction}), do: {[{:ok, {:ended, prediction}}], :ended}
  defp final({:error, error}), do: {[{:error, error}], :ended}
end
