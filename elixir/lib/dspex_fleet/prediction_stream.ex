defmodule DSPexFleet.PredictionStream do
  @moduledoc false
  # A prediction's events as a stream that always ends with the outcome. If the connection is lost, the stream is
  # reopened after the last piece received; if that yields no piece, the outcome is awaited.

  alias Dspex.Fleet.V1
  alias DSPexFleet.{Call, Connection, Context, Error, Handle, Prediction}

  @spec stream(Handle.t()) :: Enumerable.t()
  def stream(%Handle{} = handle), do: follow(handle, "")

  defp follow(handle, position) do
    [handle]
    |> Stream.flat_map(&open(&1, position))
    |> Stream.transform({:opened, position}, &read(&1, &2, handle))
  end

  # The gateway's replies, then `:closed`, to detect a stream that ends before the prediction.
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

  # The accumulator is `:ended`, or `{:moved | :opened, position}`: whether a piece came since the stream was opened,
  # and the position of the last one.
  defp read(_reply, :ended, _handle), do: {:halt, :ended}
  defp read({:ok, %V1.PredictionEvent{} = event}, reading, _handle), do: event(event.event, advance(event, reading))

  defp read({:error, %GRPC.RPCError{} = error}, reading, handle),
    do: handle_error(Error.from_rpc(error), reading, handle)

  defp read({:error, %Error{} = error}, reading, handle), do: handle_error(error, reading, handle)
  defp read(:closed, reading, handle), do: resume(reading, handle)

  defp advance(%V1.PredictionEvent{position: ""}, reading), do: reading
  defp advance(%V1.PredictionEvent{position: position}, _reading), do: {:moved, position}

  defp event({:state, state}, reading), do: {[{:ok, {:state, Prediction.state(state)}}], reading}
  defp event({:piece, piece}, reading), do: {[{:ok, {:piece, piece.field, piece.text}}], reading}

  defp event({:ended, wire}, _reading) do
    case Prediction.from_wire(wire) do
      {:ok, prediction} -> final(Prediction.outcome(prediction))
      {:error, _error} = error -> final(error)
    end
  end

  defp event(_from_a_newer_gateway, reading), do: {[], reading}

  defp handle_error(error, reading, handle) do
    if Error.cut?(error), do: resume(reading, handle), else: final({:error, error})
  end

  defp resume({:moved, position}, handle), do: {follow(handle, position), :ended}
  defp resume({:opened, _position}, handle), do: await(handle)

  defp await(handle), do: handle |> DSPexFleet.await(:infinity) |> final()

  defp final({:ok, prediction}), do: {[{:ok, {:ended, prediction}}], :ended}
  defp final({:error, error}), do: {[{:error, error}], :ended}
end
