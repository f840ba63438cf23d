defmodule DSPexFleet.Connection.InFlight do
  @moduledoc false
  # The requests in flight, so that each of them is notified when the connection is lost.
  #
  # Gun drops a request that it was about to write when the socket closed, without notifying anybody, since it has no
  # stream yet. Its caller would wait until its timeout, and a watch forever.

  @enforce_keys [:table, :breaks]
  defstruct @enforce_keys

  @type t :: %__MODULE__{table: :ets.table(), breaks: :atomics.atomics_ref()}

  @spec new() :: t
  def new, do: %__MODULE__{table: :ets.new(__MODULE__, [:public, :set]), breaks: :atomics.new(1, [])}

  @doc "Returns how often the connection has been lost so far."
  @spec breaks(t) :: non_neg_integer
  def breaks(in_flight), do: :atomics.get(in_flight.breaks, 1)

  @doc "Adds a request whose response `pid` collects; `breaks` is the value of `breaks/1` before it was sent."
  @spec add(t, pid, non_neg_integer) :: :ok
  def add(in_flight, pid, breaks) do
    :ets.insert(in_flight.table, {pid})
    # A loss between sending and inserting has notified only the processes in the table.
    if breaks(in_flight) != breaks, do: send(pid, {:connection_down, :closed})
    :ok
  rescue
    # The connection's process is gone, and its table with it.
    ArgumentError -> send(pid, {:connection_down, :closed}) && :ok
  end

  @doc "Removes a request that has its response."
  @spec delete(t, pid) :: :ok
  def delete(in_flight, pid) do
    :ets.delete(in_flight.table, pid)
    :ok
  rescue
    ArgumentError -> :ok
  end

  @doc "Notifies every request in flight that the connection was lost."
  @spec connection_lost(t, term) :: :ok
  def connection_lost(in_flight, reason) do
    :atomics.add(in_flight.breaks, 1, 1)
    for {pid} <- :ets.tab2list(in_flight.table), do: send(pid, {:connection_down, reason})
    :ok
  rescue
    ArgumentError -> :ok
  end
end
