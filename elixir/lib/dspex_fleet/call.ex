defmodule DSPexFleet.Call do
  @moduledoc false
  # One unary call: within its timeout, again after a broken connection, measured. Every request of this package may be
  # sent twice: those that change something carry an id under which the fleet applies them once.

  alias DSPexFleet.{Connection, Context, Error}
  alias DSPexFleet.Connection.Backoff

  @timeout 15_000

  @type operation :: atom
  @type build :: (session :: String.t() -> {:ok, struct} | {:error, Error.t()} | struct)

  @doc "The milliseconds that a call may take unless its caller says otherwise."
  @spec default_timeout() :: pos_integer
  def default_timeout, do: @timeout

  @doc "Returns an id under which the fleet applies a request once, however often it is sent."
  @spec fresh_id() :: String.t()
  def fresh_id, do: 15 |> :crypto.strong_rand_bytes() |> Base.url_encode64()

  @doc """
  Calls `stub.rpc`, the request made for the context's session by `build`.

  It is sent again within the timeout after each error for which `again?` is true.
  """
  @spec run(Context.t(), operation, {module, atom}, build, timeout, (Error.t() -> boolean)) ::
          {:ok, struct} | {:error, Error.t()}
  def run(context, operation, {stub, rpc}, build, timeout \\ @timeout, again? \\ &Error.cut?/1) do
    with {:ok, session, connection} <- Context.lookup(context),
         {:ok, request} <- built(build.(session)) do
      about = %{operation: operation, session: session}

      :telemetry.span([:dspex_fleet, :call], about, fn ->
        result = attempt(connection, {stub, rpc, request}, again?, deadline(timeout), 0)
        {result, Map.put(about, :error, error(result))}
      end)
    end
  end

  @doc "Sends one request on a channel that stands; a stream if the method is one."
  @spec send_once(GRPC.Channel.t(), map, {module, atom, struct}, timeout) :: {:ok, term} | {:error, Error.t()}
  def send_once(channel, metadata, {stub, rpc, request}, timeout) do
    case apply(stub, rpc, [channel, request, [timeout: timeout, metadata: metadata]]) do
      {:ok, reply} -> {:ok, reply}
      {:error, %GRPC.RPCError{} = error} -> {:error, Error.from_rpc(error)}
      {:error, reason} -> {:error, Error.new("BadAnswer", inspect(reason))}
    end
  catch
    # The connection's process ended between the look-up of the channel and its use.
    :exit, reason -> {:error, Error.new("GatewayUnavailable", "the connection broke: #{inspect(reason)}")}
  end

  defp built({:ok, request}), do: {:ok, request}
  defp built({:error, %Error{}} = refused), do: refused
  defp built(request), do: {:ok, request}

  defp attempt(connection, call, again?, deadline, tries) do
    result =
      with {:ok, channel, metadata} <- Connection.channel(connection, left(deadline)) do
        send_once(channel, metadata, call, left(deadline))
      end

    pause = Backoff.delay(tries, 50, 1_000)

    if worth_it?(result, again?) and sooner?(pause, left(deadline)) do
      Process.sleep(pause)
      attempt(connection, call, again?, deadline, tries + 1)
    else
      result
    end
  end

  defp worth_it?({:ok, _reply}, _again?), do: false
  defp worth_it?({:error, error}, again?), do: again?.(error)

  defp error({:ok, _reply}), do: nil
  defp error({:error, error}), do: error

  defp deadline(:infinity), do: :infinity
  defp deadline(timeout), do: now() + timeout

  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(deadline - now(), 1)

  defp sooner?(_pause, :infinity), do: true
  defp sooner?(pause, left), do: pause < left

  defp now, do: System.monotonic_time(:millisecond)
end
