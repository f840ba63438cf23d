defmodule DSPexFleet.Call do
  @moduledoc false
  # A unary call with a timeout, retries after a lost connection, and telemetry. Every request of this package can be
  # sent twice: those that change something carry an id under which the fleet applies them once.

  alias DSPexFleet.{Connection, Context, Error, TraceContext}
  alias DSPexFleet.Connection.Backoff

  @timeout 15_000

  @type operation :: atom
  @type build :: (session :: String.t() -> {:ok, struct} | {:error, Error.t()} | struct)

  @doc "Returns the default timeout of a call in milliseconds."
  @spec default_timeout() :: pos_integer
  def default_timeout, do: @timeout

  @doc "Returns an id under which the fleet applies a request once, however often it is sent."
  @spec fresh_id() :: String.t()
  def fresh_id, do: 15 |> :crypto.strong_rand_bytes() |> Base.url_encode64()

  @doc """
  Calls `stub.rpc` with the request that `build` returns for the context's session.

  The request is sent again, within the timeout, after each error for which `:again?` returns true; by default, after a
  lost connection. It continues the trace of `:traceparent`, or by default of the caller's current span.
  """
  @spec run(Context.t(), operation, {module, atom}, build, timeout, keyword) :: {:ok, struct} | {:error, Error.t()}
  def run(context, operation, {stub, rpc}, build, timeout \\ @timeout, opts \\ []) do
    opts = Keyword.validate!(opts, again?: &Error.cut?/1, traceparent: nil)

    with {:ok, session, connection} <- Context.lookup(context),
         {:ok, request} <- to_result(build.(session)) do
      about = %{operation: operation, session: session}

      :telemetry.span([:dspex_fleet, :call], about, fn ->
        result = attempt(connection, {stub, rpc, request}, opts, deadline(timeout), 0)
        {result, Map.put(about, :error, error(result))}
      end)
    end
  end

  @doc "Sends one request on a connected channel; returns a stream if the method is streaming."
  @spec send_once(GRPC.Channel.t(), map, {module, atom, struct}, timeout, String.t() | nil) ::
          {:ok, term} | {:error, Error.t()}
  def send_once(channel, metadata, {stub, rpc, request}, timeout, traceparent \\ nil) do
    case apply(stub, rpc, [channel, request, [timeout: timeout, metadata: TraceContext.put(metadata, traceparent)]]) do
      {:ok, reply} -> {:ok, reply}
      {:error, %GRPC.RPCError{} = error} -> {:error, Error.from_rpc(error)}
      {:error, reason} -> {:error, Error.new(:bad_answer, inspect(reason))}
    end
  catch
    # The connection's process exited between the look-up of the channel and its use.
    :exit, reason -> {:error, Error.new(:gateway_unavailable, "the connection was lost: #{exit_reason(reason)}")}
  end

  # Without the call that exited, whose arguments contain the token.
  defp exit_reason({reason, {_module, _function, _arguments}}), do: inspect(reason)
  defp exit_reason(reason), do: inspect(reason)

  defp to_result({:ok, request}), do: {:ok, request}
  defp to_result({:error, %Error{}} = refused), do: refused
  defp to_result(request), do: {:ok, request}

  defp attempt(connection, call, opts, deadline, tries) do
    result =
      with {:ok, channel, metadata} <- Connection.channel(connection, remaining(deadline)) do
        send_once(channel, metadata, call, remaining(deadline), opts[:traceparent])
      end

    pause = Backoff.delay(tries, 50, 1_000)

    if retry?(result, opts[:again?]) and fits?(pause, remaining(deadline)) do
      Process.sleep(pause)
      attempt(connection, call, opts, deadline, tries + 1)
    else
      result
    end
  end

  defp retry?({:ok, _reply}, _again?), do: false
  defp retry?({:error, error}, again?), do: again?.(error)

  defp error({:ok, _reply}), do: nil
  defp error({:error, error}), do: error

  defp deadline(:infinity), do: :infinity
  defp deadline(timeout), do: now() + timeout

  defp remaining(:infinity), do: :infinity
  defp remaining(deadline), do: max(deadline - now(), 1)

  defp fits?(_pause, :infinity), do: true
  defp fits?(pause, remaining), do: pause < remaining

  defp now, do: System.monotonic_time(:millisecond)
end
