defmodule DSPexFleet.Call do
  @moduledoc false
  # A unary call with a timeout, retries after a failure of its gateway, and telemetry. Every request of this package
  # can be sent twice: those that change something carry an id under which the fleet applies them once.

  alias DSPexFleet.{Connection, Error, Session, TraceContext}
  alias DSPexFleet.Connection.{Backoff, Circuits}

  @timeout 15_000

  @type operation :: atom
  @type build :: (Session.t() -> {:ok, map} | {:error, Error.t()} | map)

  @doc "Returns the default timeout of a call in milliseconds."
  @spec default_timeout() :: pos_integer
  def default_timeout, do: @timeout

  @doc "Returns an id under which the fleet applies a request once, however often it is sent."
  @spec fresh_id() :: String.t()
  def fresh_id, do: 15 |> :crypto.strong_rand_bytes() |> Base.url_encode64()

  @doc """
  Calls an operation of the gateway, such as `"Variables.Publish"`, with the message that `build` returns for the session.

  Fields of the message that are nil are left out. The request is sent again, within the timeout, after each error for which
  `:again?` returns true; by default, after a failure of the gateway. It continues the trace of `:traceparent`, or by
  default of the caller's current span. A call that `:waits?` on the gateway holds up no other.
  """
  @spec run(Session.ref(), operation, String.t(), build, timeout, keyword) :: {:ok, map} | {:error, Error.t()}
  def run(ref, name, operation, build, timeout \\ @timeout, opts \\ []) do
    opts = Keyword.validate!(opts, again?: &Error.cut?/1, traceparent: nil, waits?: false)

    with {:ok, session} <- Session.resolve(ref),
         :ok <- check_timeout(timeout),
         {:ok, message} <- to_result(build.(session)) do
      about = %{operation: name, session: session.id}
      message = present(message)

      :telemetry.span([:dspex_fleet, :call], about, fn ->
        result = attempt(session.connection, {operation, message}, opts, deadline(timeout), 0)
        {result, Map.put(about, :error, error(result))}
      end)
    end
  end

  @doc "Returns the stream of an operation on one gateway; see `DSPexFleet.Transport`."
  @spec stream(Connection.choice(), String.t(), map) :: Enumerable.t()
  def stream(choice, operation, message) do
    opts = [headers: TraceContext.put(choice.headers, nil), usable?: fn -> Connection.usable?(choice) end]

    choice.gateway
    |> choice.transport.stream(operation, present(message), opts)
    |> Stream.map(&reported(&1, choice))
  end

  defp check_timeout(:infinity), do: :ok
  defp check_timeout(timeout) when is_integer(timeout) and timeout > 0, do: :ok

  defp check_timeout(other) do
    {:error, Error.new(:invalid_option, "expected a timeout in milliseconds or :infinity, got: #{inspect(other)}")}
  end

  defp to_result({:ok, message}), do: {:ok, message}
  defp to_result({:error, %Error{}} = refused), do: refused
  defp to_result(message), do: {:ok, message}

  defp present(message), do: Map.reject(message, fn {_field, value} -> value == nil end)

  defp attempt(connection, call, opts, deadline, tries) do
    case try_once(connection, call, opts, deadline) do
      {:ok, answer} ->
        {:ok, answer}

      # Another gateway may be up, and otherwise choosing one waits.
      {:down, error} ->
        if remaining(deadline) > 1, do: attempt(connection, call, opts, deadline, tries), else: {:error, error}

      {:error, error} ->
        again(error, connection, call, opts, deadline, tries)
    end
  end

  defp try_once(connection, {operation, message}, opts, deadline) do
    with {:ok, choice} <- Connection.choose(connection, remaining(deadline)) do
      request_opts = [
        headers: TraceContext.put(choice.headers, opts[:traceparent]),
        timeout: remaining(deadline),
        usable?: fn -> Connection.doubt(choice) end,
        age: Circuits.downs(choice.circuits, choice.index),
        waits?: opts[:waits?]
      ]

      choice.gateway |> choice.transport.request(operation, message, request_opts) |> reported(choice)
    end
  end

  defp reported({:down, error}, choice) do
    Connection.report_down(choice, error)
    {:down, error}
  end

  # A connection that was lost may be the first sign that the gateway is down.
  defp reported({:error, %Error{reason: :gateway_unavailable}} = failure, choice) do
    Connection.suspect(choice)
    failure
  end

  defp reported(result, _choice), do: result

  defp again(error, connection, call, opts, deadline, tries) do
    pause = Backoff.delay(tries, 50, 1_000)

    if opts[:again?].(error) and fits?(pause, remaining(deadline)) do
      Process.sleep(pause)
      attempt(connection, call, opts, deadline, tries + 1)
    else
      {:error, error}
    end
  end

  defp error({:ok, _answer}), do: nil
  defp error({:error, error}), do: error

  defp deadline(:infinity), do: :infinity
  defp deadline(timeout), do: now() + timeout

  defp remaining(:infinity), do: :infinity
  defp remaining(deadline), do: max(deadline - now(), 1)

  defp fits?(_pause, :infinity), do: true
  defp fits?(pause, remaining), do: pause < remaining

  defp now, do: System.monotonic_time(:millisecond)
end
