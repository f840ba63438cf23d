defmodule DSPexFleet.Connection.Adapter do
  @moduledoc false
  # The gRPC package's Gun adapter, with three more guarantees: a call ends at its own timeout (the package waits twice
  # as long), every call fails as UNAVAILABLE when the connection is lost, and a stream whose reader is gone is
  # cancelled on the server.

  @behaviour GRPC.Client.Adapter

  alias DSPexFleet.Connection.InFlight
  alias GRPC.Client.Adapters.Gun

  @internal 13
  @unavailable 14
  # The server's own DEADLINE_EXCEEDED is more informative than the client's, so it gets a moment to arrive.
  @grace_ms 100

  @impl true
  def connect(channel, opts) do
    {in_flight, opts} = Keyword.pop!(opts, :in_flight)

    with {:ok, channel} <- Gun.connect(channel, opts) do
      {:ok, %{channel | adapter_payload: Map.put(channel.adapter_payload, :in_flight, in_flight)}}
    end
  end

  @impl true
  def send_request(stream, message, opts) do
    in_flight = stream.channel.adapter_payload.in_flight
    breaks = InFlight.breaks(in_flight)
    sent = Gun.send_request(stream, message, opts)
    InFlight.add(in_flight, sent.payload.response_pid, breaks)
    sent
  end

  @impl true
  defdelegate disconnect(channel), to: Gun
  @impl true
  defdelegate send_headers(stream, opts), to: Gun
  @impl true
  defdelegate send_data(stream, message, opts), to: Gun
  @impl true
  defdelegate end_stream(stream), to: Gun
  @impl true
  defdelegate cancel(stream), to: Gun

  @impl true
  def receive_data(%{server_stream: true} = stream, opts) do
    guard = guard(stream)

    case Gun.receive_data(stream, opts) do
      {:ok, replies} ->
        {:ok, closing(replies, guard)}

      {:error, error} ->
        send(guard, :close)
        {:error, readable(error)}
    end
  end

  def receive_data(stream, opts) do
    received = Gun.receive_data(stream, Keyword.update(opts, :timeout, :infinity, &halved/1))
    finished(stream)

    with {:error, error} <- received do
      # Otherwise the process that collects the response leaks, and with it the request.
      cancelled(stream)
      {:error, readable(error)}
    end
  end

  defp halved(timeout) when is_integer(timeout), do: div(timeout + @grace_ms, 2)
  defp halved(:infinity), do: :infinity

  # The package reports each of these as INTERNAL, though the request is fine. They are prefixes of its error messages,
  # so check them when the `grpc` requirement in mix.exs changes.
  @broken [
    ":connection_error:",
    ":stream_error: :closed",
    ":stream_error: {:closed",
    ":stream_error: {:goaway",
    ":stream_error: {:stream_error, :refused_stream"
  ]

  defp readable(%GRPC.RPCError{status: @internal, message: message} = error) when is_binary(message) do
    if String.starts_with?(message, @broken), do: %{error | status: @unavailable}, else: error
  end

  defp readable(error), do: error

  defp closing(replies, guard) do
    Stream.transform(
      replies,
      fn -> :open end,
      fn
        {:error, error}, _state -> {[{:error, readable(error)}], :ended}
        reply, state -> {[reply], state}
      end,
      fn _state -> {[], :ended} end,
      fn state -> send(guard, if(state == :open, do: :close, else: :ended)) end
    )
  end

  # A reader can be killed at any moment without running its own cleanup.
  defp guard(stream) do
    reader = self()

    spawn(fn ->
      watched = Process.monitor(reader)

      receive do
        :ended -> :ok
        :close -> cancelled(stream)
        {:DOWN, ^watched, :process, _pid, _reason} -> cancelled(stream)
      end

      finished(stream)
    end)
  end

  defp finished(stream), do: InFlight.delete(stream.channel.adapter_payload.in_flight, stream.payload.response_pid)

  # The process of a fully read response has exited, and its request can't be cancelled any more.
  defp cancelled(stream) do
    if Process.alive?(stream.payload.response_pid), do: Gun.cancel(stream)
  catch
    :exit, _reason -> :ok
  end
end
