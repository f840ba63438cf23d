defmodule DSPexFleet.Transport.HTTP do
  @moduledoc """
  The gateway's HTTP API: JSON, and server-sent events for streams.

  Calls share a pool of connections, and those that wait on the gateway have one of their own. A stream has its own
  connection, which belongs to the process that reads it: leaving it early, or the death of its reader, closes that
  connection and no other.
  """

  @behaviour DSPexFleet.Transport

  alias DSPexFleet.Connection.Target
  alias DSPexFleet.Error
  alias DSPexFleet.Transport.HTTP.{EventStream, Exchange, Pool, Routes}

  @enforce_keys [:target, :ssl, :calls, :waits]
  @derive {Inspect, only: [:target]}
  defstruct @enforce_keys

  # The gateway's own answer to a call that took too long says more than the client's, and gets a moment to arrive.
  @grace_ms 100
  @min_timeout_s 0.1

  @impl true
  def open(target, options) do
    {:ok, calls} = Pool.start_link(options.pool_size)
    {:ok, waits} = Pool.start_link(options.wait_pool_size)
    %__MODULE__{target: target, ssl: options.ssl, calls: calls, waits: waits}
  end

  @impl true
  def check(gateway, timeout) do
    deadline = deadline(timeout)

    with {:ok, conn} <- Exchange.connect(gateway.target, gateway.ssl, timeout),
         {:ok, exchange} <- Exchange.send_request(conn, gateway.target, {"GET", "/livez", [], nil}, fn -> true end),
         {:ok, _status, _body, conn} <- Exchange.read_response(exchange, deadline) do
      Exchange.close(conn)
    else
      {_failed, %Error{} = error} -> {:error, error}
      {:closed, reason} -> {:error, lost(gateway, reason)}
      :timeout -> {:error, unavailable(gateway, "it didn't answer within #{timeout} ms")}
    end
  end

  @impl true
  def request(gateway, operation, message, opts) do
    deadline = deadline(opts[:timeout])
    {method, path, body} = Routes.request(operation, message)
    pool = if opts[:waits?], do: gateway.waits, else: gateway.calls

    case Pool.run(pool, opts[:timeout], &exchange(&1, gateway, {method, path, body}, deadline, opts)) do
      {:ok, result} -> result
      :busy -> {:error, Error.new(:took_too_long, "every connection to #{label(gateway)} was in use all the time")}
      {:gone, reason} -> {:error, Error.new(:context_down, "the connection isn't running: #{inspect(reason)}")}
    end
  end

  @impl true
  def stream(gateway, operation, message, opts) do
    Stream.resource(
      fn -> open_stream(gateway, operation, message, opts) end,
      &read_stream(&1, gateway),
      &close_stream/1
    )
  end

  # A connection that was idle may have been closed just now: the request goes on a new one, which it may without harm,
  # since every request can be sent twice.
  defp exchange(idle, gateway, request, deadline, opts) do
    with true <- idle != nil and Mint.HTTP1.get_private(idle, :age) == opts[:age] and Exchange.idle?(idle),
         {:done, result, conn} <- attempt(idle, gateway, request, deadline, opts) do
      {result, kept(:reused, conn)}
    else
      _stale -> fresh_exchange(gateway, request, deadline, opts)
    end
  end

  defp fresh_exchange(gateway, request, deadline, opts) do
    with {:ok, conn} <- Exchange.connect(gateway.target, gateway.ssl, remaining(deadline)),
         conn = Mint.HTTP1.put_private(conn, :age, opts[:age]),
         {:done, result, conn} <- attempt(conn, gateway, request, deadline, opts) do
      {result, kept(:fresh, conn)}
    else
      {:closed, reason} -> {{:error, lost(gateway, reason)}, nil}
      failure -> {failure, nil}
    end
  end

  defp attempt(conn, gateway, {method, path, body}, deadline, opts) do
    headers = timeout_header(deadline) ++ opts[:headers]

    with {:ok, exchange} <- Exchange.send_request(conn, gateway.target, {method, path, headers, body}, opts[:usable?]),
         {:ok, status, text, conn} <- Exchange.read_response(exchange, plus_grace(deadline)) do
      {:done, answer(status, text, gateway), conn}
    else
      {:closed, reason} ->
        {:closed, reason}

      :unusable ->
        {:done, {:down, unavailable(gateway, "it stopped answering")}, abandon(conn)}

      :timeout ->
        {:done, {:error, Error.new(:took_too_long, "#{label(gateway)} didn't answer in time")}, abandon(conn)}
    end
  end

  defp abandon(conn) do
    :ok = Exchange.close(conn)
    nil
  end

  defp kept(_age, nil), do: nil
  defp kept(age, conn), do: {age, conn}

  defp answer(200, text, gateway), do: decode(text, gateway)
  defp answer(status, text, gateway), do: failure(status, text, gateway)

  defp decode(text, gateway) do
    case JSON.decode(text) do
      {:ok, message} when is_map(message) -> {:ok, message}
      _other -> {:error, bad_answer(text, gateway)}
    end
  end

  defp failure(status, text, gateway) do
    error =
      case JSON.decode(text) do
        {:ok, %{"error" => %{} = wire}} -> Error.from_response(wire, status)
        _other -> Error.from_response(%{"message" => "#{label(gateway)} answered HTTP #{status}"}, status)
      end

    if error.reason == :draining, do: {:down, error}, else: {:error, error}
  end

  defp open_stream(gateway, operation, message, opts) do
    {"GET", path, nil} = Routes.request(operation, message)
    headers = [{"accept", "text/event-stream"} | opts[:headers]]

    with {:ok, conn} <- Exchange.connect(gateway.target, gateway.ssl, :infinity),
         {:ok, exchange} <- Exchange.send_request(conn, gateway.target, {"GET", path, headers, nil}, opts[:usable?]) do
      {:opening, exchange, EventStream.new()}
    else
      {:closed, reason} -> {:failed, {:error, lost(gateway, reason)}}
      failure -> {:failed, failure}
    end
  end

  defp read_stream({:failed, failure}, _gateway), do: {[failure], :ended}
  defp read_stream(:ended, _gateway), do: {:halt, :ended}

  defp read_stream({:closing, exchange}, _gateway), do: {:halt, {:closing, exchange}}

  defp read_stream({phase, exchange, events}, gateway) do
    case Exchange.receive_next(exchange, :infinity) do
      {:idle, exchange} -> read_stream({phase, exchange, events}, gateway)
      {parts, %{status: 200} = exchange} -> read_events(phase, parts, exchange, events, gateway)
      {parts, exchange} when is_list(parts) -> read_refusal(parts, exchange, events, gateway)
      {:closed, reason} -> {[{:error, lost(gateway, reason)}], {:closing, exchange}}
      :unusable -> {[{:down, unavailable(gateway, "it stopped answering")}], {:closing, exchange}}
    end
  end

  defp read_events(phase, parts, exchange, events, gateway) do
    {found, events} =
      Enum.flat_map_reduce(parts, events, fn
        {:data, data}, events -> EventStream.parse(events, data)
        :done, events -> {[], events}
      end)

    state = if :done in parts, do: {:closing, exchange}, else: {:reading, exchange, events}
    opened = if phase == :opening, do: [:open], else: []
    {opened ++ Enum.map(found, &message(&1, gateway)), state}
  end

  # An error at the start of a stream is a response like that of any other call.
  defp read_refusal(parts, exchange, {pending, _ends_line}, gateway) do
    body = pending ++ for {:data, data} <- parts, do: data

    if :done in parts,
      do: {[failure(exchange.status, IO.iodata_to_binary(body), gateway)], {:closing, exchange}},
      else: {[], {:opening, exchange, {body, false}}}
  end

  defp message({:message, text}, gateway), do: decode(text, gateway)

  defp message({:error, text}, gateway) do
    case JSON.decode(text) do
      {:ok, %{"error" => %{} = wire}} -> wire |> Error.from_response(nil) |> then(&{ended(&1), &1})
      _other -> {:error, bad_answer(text, gateway)}
    end
  end

  defp ended(%Error{reason: :draining}), do: :down
  defp ended(_error), do: :error

  defp close_stream({_phase, exchange, _events}), do: Exchange.close(exchange.conn)
  defp close_stream({:closing, exchange}), do: Exchange.close(exchange.conn)
  defp close_stream(_nothing), do: :ok

  defp timeout_header(:infinity), do: []

  defp timeout_header(deadline) do
    seconds = max(remaining(deadline) / 1_000, @min_timeout_s)
    # Above five minutes the gateway's own limit comes first.
    if seconds > 300, do: [], else: [{"request-timeout", :erlang.float_to_binary(seconds, decimals: 3)}]
  end

  defp plus_grace(:infinity), do: :infinity
  defp plus_grace(deadline), do: deadline + @grace_ms

  defp bad_answer(text, gateway) do
    shown = text |> binary_part(0, min(byte_size(text), 100)) |> inspect()
    Error.new(:bad_answer, "#{label(gateway)} sent what isn't a JSON object: #{shown}")
  end

  defp lost(gateway, reason), do: unavailable(gateway, "the connection was lost: #{inspect(reason)}")

  defp unavailable(gateway, why) do
    Error.new(
      :gateway_unavailable,
      "#{label(gateway)} can't be reached: #{why}. Reconnecting continues; check that the gateway runs there.",
      status: :unavailable
    )
  end

  defp label(gateway), do: Target.label(gateway.target)

  defp deadline(:infinity), do: :infinity
  defp deadline(timeout), do: System.monotonic_time(:millisecond) + timeout

  defp remaining(:infinity), do: :infinity
  defp remaining(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)
end
