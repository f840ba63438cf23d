defmodule DSPexFleet.Events do
  @moduledoc false
  # A prediction's events as a stream that always ends with the outcome. Where the connection breaks, the stream is
  # opened again behind the last piece that came; where that brings nothing, the outcome is awaited.

  alias Dspex.Fleet.V1
  alias DSPexFleet.{Call, Connection, Context, Error, Handle, Prediction}

  @spec stream(Handle.t()) :: Enumerable.t()
  def stream(%Handle{} = handle), do: follow(handle, "")

  defp follow(handle, position) do
    [handle]
    |> Stream.flat_map(&open(&1, position))
    |> Stream.transform({:opened, position}, &read(&1, &2, handle))
  end

  # What the gateway sends, then `:closed`, so that a stream which ends before the prediction is noticed.
  defp open(handle, position) do
    with {:ok, _session, connection} <- Context.lookup(handle.context),
         {:ok, channel, metadata} <- Connection.channel(connection, Call.default_timeout()),
         request = %V1.StreamRequest{id: handle.id, after: position},
         {:ok, replies} <- Call.send_once(channel, metadata, {V1.Predictions.Stub, :stream, request}, :infinity) do
      Stream.concat(replies, [:closed])
    else
      {:error, %Error{} = error} -> [{:error, error}]
    end
  end

  # The accumulator is `:ended`, or whether a piece came since the stream was opened, with the last one's position.
  defp read(_reply, :ended, _handle), do: {:halt, :ended}
  defp read({:ok, %V1.PredictionEvent{} = event}, reading, _handle), do: event(event.event, moved(event, reading))
  defp read({:error, %GRPC.RPCError{} = error}, reading, handle), do: broken(Error.from_rpc(error), reading, handle)
  defp read({:error, %Error{} = error}, reading, handle), do: broken(error, reading, handle)
  defp read(:closed, reading, handle), do: resumed(reading, handle)

  defp moved(%V1.PredictionEvent{position: ""}, reading), do: reading
  defp moved(%V1.PredictionEvent{position: position}, _reading), do: {:moved, position}

  defp event({:state, state}, reading), do: {[{:ok, {:state, Prediction.state(state)}}], reading}
  defp event({:piece, piece}, reading), do: {[{:ok, {:piece, piece.field, piece.text}}], reading}

  defp event({:ended, wire}, _reading) do
    with {:ok, prediction} <- Prediction.from_wire(wire) do
      ended(Prediction.outcome(prediction))
    else
      error -> ended(error)
    end
  end

  defp event(_from_a_newer_gateway, reading), do: {[], reading}

  defp broken(error, reading, handle) do
    if Error.cut?(error), do: resumed(reading, handle), else: ended({:error, error})
  end

  defp resumed({:moved, position}, handle), do: {follow(handle, position), :ended}
  defp resumed({:opened, _position}, handle), do: awaited(handle)

  defp awaited(handle), do: handle |> DSPexFleet.await(:infinity) |> ended()

  defp ended({:ok, prediction}), do: {[{:ok, {:ended, prediction}}], :ended}
  defp ended({:error, error}), do: {[{:error, error}], :ended}
end
