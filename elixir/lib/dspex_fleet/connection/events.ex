defmodule DSPexFleet.Connection.Events do
  @moduledoc false
  # Tells a connection whether its socket stands. The gRPC package reconnects without a word; a caller that has to know
  # whether to wait, and an operator who reads telemetry, need the word.

  @behaviour :gun_event

  @told [:connect_end, :tls_handshake_end, :disconnect]

  alias DSPexFleet.Connection.{Backoff, Flights}

  @doc "Returns the event handler and the retry function of one socket; both run in the process that owns the socket."
  @spec options(pid, reference, Flights.t(), {pos_integer, pos_integer}) :: keyword
  def options(owner, tag, flights, {base, cap}) do
    stood = :atomics.new(1, [])

    [
      event_handler: {__MODULE__, %{owner: owner, tag: tag, stood: stood, flights: flights}},
      retry: 1_000_000,
      retry_fun: fn left, _opts -> retry(:atomics.get(stood, 1), left, base, cap) end
    ]
  end

  # Opening a first connection blocks others that open one, so that one fails at once and the owner tries again.
  defp retry(0, _left, _base, _cap), do: %{retries: 0, timeout: 0}

  defp retry(1, left, base, cap) do
    attempt = 1_000_000 - left
    %{retries: max(left - 1, 1), timeout: Backoff.delay(attempt, base, cap)}
  end

  @impl true
  def connect_end(event, state), do: opened(event, state)

  @impl true
  def tls_handshake_end(event, state), do: opened(event, state)

  @impl true
  def disconnect(%{reason: reason}, state) do
    Flights.broke(state.flights, reason)
    tell(state, {:down, reason})
  end

  for {name, 2} <- :gun_event.behaviour_info(:callbacks), name not in @told do
    @impl true
    def unquote(name)(_event, state), do: state
  end

  # Over TLS the socket alone is no connection yet: only the event that names a protocol is.
  defp opened(%{protocol: :http2}, state) do
    :atomics.put(state.stood, 1, 1)
    tell(state, :up)
  end

  defp opened(%{error: reason}, state), do: tell(state, {:down, reason})
  defp opened(_event, state), do: state

  defp tell(state, what) do
    send(state.owner, {state.tag, what})
    state
  end
end
