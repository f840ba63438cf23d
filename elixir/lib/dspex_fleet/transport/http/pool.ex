defmodule DSPexFleet.Transport.HTTP.Pool do
  @moduledoc false
  # The connections of calls to one gateway. A call has a connection for itself: a new one unless one is idle, up to a
  # number of them, above which calls wait for their turn.

  @behaviour NimblePool

  alias DSPexFleet.Transport.HTTP.Exchange

  # Below the time after which a gateway closes an idle connection.
  @idle_ms 10_000

  @type use_result :: {term, {:fresh | :reused, Mint.HTTP1.t()} | nil}

  @spec start_link(pos_integer) :: GenServer.on_start()
  def start_link(size) do
    NimblePool.start_link(worker: {__MODULE__, nil}, pool_size: size, lazy: true, worker_idle_timeout: @idle_ms)
  end

  @doc """
  Calls `fun` with an idle connection or nil, within `timeout` milliseconds for a turn, and keeps the connection that it
  returns beside its result.
  """
  @spec run(pid, timeout, (Mint.HTTP1.t() | nil -> use_result)) :: {:ok, term} | :busy | {:gone, term}
  def run(pool, timeout, fun) do
    {:ok, NimblePool.checkout!(pool, :checkout, fn _from, conn -> give_back(fun.(conn), pool) end, timeout)}
  catch
    :exit, {:timeout, {NimblePool, :checkout, _pools}} -> :busy
    :exit, {reason, {NimblePool, :checkout, _pools}} -> {:gone, reason}
  end

  defp give_back({result, nil}, _pool), do: {result, nil}
  defp give_back({result, {:reused, conn}}, _pool), do: {result, open(conn)}

  defp give_back({result, {:fresh, conn}}, pool) do
    case Mint.HTTP1.controlling_process(conn, pool) do
      {:ok, conn} -> {result, open(conn)}
      {:error, _reason} -> {result, nil}
    end
  end

  defp open(conn), do: if(Mint.HTTP1.open?(conn), do: conn)

  @impl true
  def init_worker(pool_state), do: {:ok, nil, pool_state}

  @impl true
  def handle_checkout(:checkout, _from, conn, pool_state), do: {:ok, conn, conn, pool_state}

  @impl true
  def handle_checkin(conn, _from, previous, pool_state) do
    if conn == nil, do: Exchange.close(previous)
    {:ok, conn, pool_state}
  end

  @impl true
  def handle_ping(conn, _pool_state) do
    :ok = Exchange.close(conn)
    {:ok, nil}
  end

  @impl true
  # A caller that is killed takes a connection along whose response nobody reads any more.
  def terminate_worker(_reason, conn, pool_state) do
    :ok = Exchange.close(conn)
    {:ok, pool_state}
  end
end
