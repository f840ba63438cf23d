defmodule DSPexFleet.Subscribers do
  @moduledoc false
  # Who on this node gets the messages of a session.

  alias DSPexFleet.{Snapshot, Token}

  @type key :: {DSPexFleet.Connection.server(), session :: String.t()}

  @doc false
  @spec child_spec(term) :: Supervisor.child_spec()
  def child_spec(_opts) do
    Registry.child_spec(keys: :duplicate, name: __MODULE__, partitions: System.schedulers_online())
  end

  @doc """
  Adds the calling process, which is removed when it ends; a second time only replaces the names of the variables that it
  wants, all for an empty list, and the token that it knows.
  """
  @spec add(key, [String.t()], Token.t() | nil) :: :ok
  def add(key, names, known) do
    remove(key)
    {:ok, _registry} = Registry.register(__MODULE__, key, {names, known})
    :ok
  end

  @doc "Removes the calling process."
  @spec remove(key) :: :ok
  def remove(key), do: Registry.unregister(__MODULE__, key)

  @doc "Returns the number of subscribers."
  @spec count(key) :: non_neg_integer
  def count(key), do: Registry.count_match(__MODULE__, key, :_)

  @doc "Sends each subscriber a snapshot with the variables that it wants, unless it knows the snapshot."
  @spec send_snapshot(key, Snapshot.t()) :: :ok
  def send_snapshot(key, snapshot) do
    dispatch(key, fn pid, {names, known} -> send_snapshot(pid, snapshot, names, known) end)
  end

  @doc "Sends one subscriber a snapshot in the same way."
  @spec send_snapshot(pid, Snapshot.t(), [String.t()], Token.t() | nil) :: :ok
  def send_snapshot(pid, snapshot, names, known) do
    if known == nil or Token.compare(snapshot.token, known) == :gt,
      do: send(pid, {:dspex_fleet, :snapshot, Snapshot.select(snapshot, names)})

    :ok
  end

  @doc "Sends each subscriber the same message."
  @spec send_all(key, term) :: :ok
  def send_all(key, message), do: dispatch(key, fn pid, _wanted -> send(pid, message) end)

  defp dispatch(key, fun) do
    Registry.dispatch(__MODULE__, key, fn entries -> for {pid, wanted} <- entries, do: fun.(pid, wanted) end)
  end
end
