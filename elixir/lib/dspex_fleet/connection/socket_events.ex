defmodule DSPexFleet.Connection.SocketEvents do
  @moduledoc false
  # Notifies a connection when its socket goes up or down. The gRPC package reconnects silently, but callers have to
  # know whether to wait, and operators read it in telemetry.

  @behaviour :gun_event

  @handled [:connect_end, :tls_handshake_end, :disconnect]

  alias DSPexFleet.Connection.{Backoff, InFlight}

  @doc "Returns the event handler and the retry function of one socket; both run in the process that owns the socket."
  @spec options(pid, reference, InFlight.t(), {pos_integer, pos_integer}) :: keyword
  def options(owner, tag, in_flight, {base, cap}) do
    was_up = :atomics.new(1, [])

    [
      event_handler: {__MODULE__, %{owner: owner, tag: tag, was_up: was_up, in_flight: in_flight}},
      retry: 1_000_000,
      retry_fun: fn left, _opts -> retry(:atomics.get(was_up, 1), left, base, cap) end
    ]
  end

  # Opening a first connection blocks others that are opening, so it fails at once and the owner retries.
  defp retry(0, _left, _base, _cap), do: %{retries: 0, timeout: 0}

  defp retry(1, left, base, cap) do
    attempt = 1_000_000 - left
    %{retries: max(left - 1, 1), timeout: Backoff.delay(attempt, base, cap)}
  end

  @impl true
  def connect_end(event, state), do: report_open(event, state)

  @impl true
  def tls_handshake_end(event, state), do: report_open(event, state)

  @impl true
  def disconnect(%{reason: reason}, state) do
    InFlight.connection_lost(state.in_flight, reason)
    notify(state, {:down, reason})
  end

  for {name, 2} <- :gun_event.behaviour_info(:callbacks), name not in @handled do
    @impl true
    def unquote(name)(_event, state), do: state
  end

  # With TLS, an open socket isn't a connection yet: only the event that names a protocol is.
  defp report_open(%{protocol: :http2}, state) do
    :atomics.put(state.was_up, 1, 1)
    notify(state, :up)
  end

  defp report_open(%{error: reason}, state), do: notify(state, {:down, reason})
  defp report_open(_event, state), do: state

  defp notify(state, what) do
    send(state.owner, {state.tag, what})
    state
  end
end
