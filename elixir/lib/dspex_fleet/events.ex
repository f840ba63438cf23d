defmodule DSPexFleet.Events do
  @moduledoc false
  # A prediction's events as a stream that always ends with the outcome: where the connection breaks, by awaiting it.

  alias Dspex.Fleet.V1
  alias DSPexFleet.{Call, Connection, Context, Error, Handle, Prediction}

  @spec stream(Handle.t()) :: Enumerable.t()
  def stream(%Handle{} = handle) do
    [handle]
    |> Stream.flat_map(&open/1)
    |> Stream.transform(:reading, &read(&1, &2, handle))
  end

  # What the gateway sends, then `:closed`, so that a stream which ends before the prediction is noticed.
  defp open(handle) do
    with {:ok, _session, connection} <- Context.lookup(handle.context),
         {:ok, channel, metadata} <- Connection.channel(connection, Call.default_timeout()),
         request = %V1.PredictionRequest{id: handle.id},
         {:ok, replies} <- Call.send_once(channel, metadata, {V1.Predictions.Stub, :stream, request}, :infinity) do
      Stream.concat(replies, [:closed])
    else
      {:error, %Error{} = error} -> [{:error, error}]
    end
  end

  defp read(_reply, :ended, _handle), do: {:halt, :ended}
  defp read({:ok, %V1.PredictionEvent{event: event}}, :reading, _handle), do: event(event)
  defp read({:error, %GRPC.RPCError{} = error}, :reading, handle), do: broken(Error.from_rpc(error), handle)
  defp read({:error, %Error{} = error}, :reading, handle), do: broken(error, handle)
  defp read(:closed, :reading, handle), do: awaited(handle)

  defp event({:state, state}), do: {[{:ok, {:state, Prediction.state(state)}}], :reading}
  defp event({:piece, piece}), do: {[{:ok, {:piece, piece.field, piece.text}}], :reading}

  defp event({:ended, wire}) do
    with {:ok, prediction} <- Prediction.from_wire(wire) do
      ended(Prediction.outcome(prediction))
    else
      error -> ended(error)
    end
  end

  defp event(_from_a_newer_gateway), do: {[], :reading}

  defp broken(error, handle), do: if(Error.cut?(error), do: awaited(handle), else: ended({:error, error}))

  defp awaited(handle), do: handle |> DSPexFleet.await(:infinity) |> ended()

  defp ended({:ok, prediction}), do: {[{:ok, {:ended, prediction}}], :ended}
  defp ended({:error, error}), do: {[{:error, error}], :ended}
end
