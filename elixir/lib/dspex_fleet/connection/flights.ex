defmodule DSPexFleet.Connection.Flights do
  @moduledoc false
  # The requests that wait for an answer, so that all of them learn of a broken connection.
  #
  # Gun forgets a request that it was about to write when the socket broke: it has no stream yet that could be told. Its
  # caller would wait until its timeout, and a watch for ever.

  @enforce_keys [:table, :breaks]
  defstruct @enforce_keys

  @type t :: %__MODULE__{table: :ets.table(), breaks: :atomics.atomics_ref()}

  @spec new() :: t
  def new, do: %__MODULE__{table: :ets.new(__MODULE__, [:public, :set]), breaks: :atomics.new(1, [])}

  @doc "How often the connection has broken so far."
  @spec breaks(t) :: non_neg_integer
  def breaks(flights), do: :atomics.get(flights.breaks, 1)

  @doc "Counts a request in, whose answer `pid` collects and which was written when `breaks` had happened or later."
  @spec depart(t, pid, non_neg_integer) :: :ok
  def depart(flights, pid, breaks) do
    :ets.insert(flights.table, {pid})
    # A break between the two was told to those in the table alone.
    if breaks(flights) != breaks, do: send(pid, {:connection_down, :closed})
    :ok
  rescue
    # The connection's process is gone, and its table with it.
    ArgumentError -> send(pid, {:connection_down, :closed}) && :ok
  end

  @doc "Counts a request out."
  @spec land(t, pid) :: :ok
  def land(flights, pid) do
    :ets.delete(flights.table, pid)
    :ok
  rescue
    ArgumentError -> :ok
  end

  @doc "Tells everyone that the connection broke."
  @spec broke(t, term) :: :ok
  def broke(flights, reason) do
    :atomics.add(flights.breaks, 1, 1)
    for {pid} <- :ets.tab2list(flights.table), do: send(pid, {:connection_down, reason})
    :ok
  rescue
    ArgumentError -> :ok
  end
end
