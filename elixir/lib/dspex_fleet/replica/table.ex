defmodule DSPexFleet.Replica.Table do
  @moduledoc false
  # The newest snapshots of this node's replicas, which any process reads without a message. The table outlives the
  # replica that writes it, so that one that is started again goes on where the last one was.

  use GenServer

  alias DSPexFleet.{Error, Snapshot, Token, Variable}

  @type key :: DSPexFleet.Subscribers.key()
  @type outage :: nil | {since_ms :: integer, Error.t()}

  # {key, token, variables, snapshot without variables, outage, time of the last reading}
  @token 2
  @outage 5
  @read_at 6
  # A reading is recorded this often, so that many readers don't write all the time.
  @record_ms 10_000

  @spec start_link(term) :: GenServer.on_start()
  def start_link(_opts), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @impl true
  def init(nil) do
    table = :ets.new(__MODULE__, [:named_table, :public, read_concurrency: true, write_concurrency: true])
    {:ok, table}
  end

  @doc "Puts a snapshot, which has to be newer than the one that is there."
  @spec put(key, Snapshot.t()) :: :ok
  def put(key, snapshot) do
    :ets.insert(__MODULE__, {key, snapshot.token, snapshot.variables, %{snapshot | variables: %{}}, nil, now()})
    :ok
  end

  @doc "Puts since when the replica has had no connection, or that it has one."
  @spec put_outage(key, outage) :: :ok
  def put_outage(key, outage) do
    :ets.update_element(__MODULE__, key, {@outage, outage})
    :ok
  end

  @spec delete(key) :: :ok
  def delete(key) do
    :ets.delete(__MODULE__, key)
    :ok
  end

  @doc "Returns the token of the snapshot, or nil."
  @spec token(key) :: Token.t() | nil
  def token(key), do: element(key, @token)

  @doc "Returns the snapshot and its outage, or nil."
  @spec snapshot(key) :: {Snapshot.t(), outage} | nil
  def snapshot(key) do
    case :ets.lookup(__MODULE__, key) do
      [{^key, _token, variables, snapshot, outage, read_at}] ->
        record(key, read_at)
        {%{snapshot | variables: variables}, outage}

      [] ->
        nil
    end
  end

  @doc "Returns one variable, its snapshot's token and the outage, without the other variables; nil if it isn't there."
  @spec variable(key, String.t()) :: {Variable.t(), Token.t(), outage} | nil
  def variable(key, name) do
    pattern = {key, :"$2", %{name => :"$1"}, :_, :"$3", :"$4"}

    case :ets.select(__MODULE__, [{pattern, [], [{{:"$1", :"$2", :"$3", :"$4"}}]}]) do
      [{variable, token, outage, read_at}] ->
        record(key, read_at)
        {variable, token, outage}

      [] ->
        nil
    end
  end

  @doc "Returns the milliseconds since the last reading."
  @spec idle_ms(key) :: non_neg_integer | :infinity
  def idle_ms(key) do
    case element(key, @read_at) do
      nil -> :infinity
      read_at -> now() - read_at
    end
  end

  defp element(key, position) do
    :ets.lookup_element(__MODULE__, key, position)
  rescue
    # There is none.
    ArgumentError -> nil
  end

  defp record(key, read_at) do
    now = now()
    if now - read_at > @record_ms, do: :ets.update_element(__MODULE__, key, {@read_at, now})
  end

  defp now, do: System.monotonic_time(:millisecond)
end
