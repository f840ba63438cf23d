defmodule DSPexFleet.Processes do
  @moduledoc false
  # What a request has to know of contexts and connections, in a registry: reading it costs no message to their
  # processes, so that a busy context or connection delays no caller.
  #
  # Each process registers a value under its pid and alone can change it. A value disappears with its process.

  @doc false
  @spec child_spec(term) :: Supervisor.child_spec()
  def child_spec(_opts), do: Registry.child_spec(keys: :unique, name: __MODULE__)

  @doc "Registers the calling process and returns the registry's pid, to which it is now linked."
  @spec register(term) :: pid
  def register(value) do
    {:ok, registry} = Registry.register(__MODULE__, self(), value)
    registry
  end

  @doc "Replaces the value of the calling process."
  @spec update(term) :: :ok
  def update(value) do
    {^value, _before} = Registry.update_value(__MODULE__, self(), fn _before -> value end)
    :ok
  end

  @doc "Returns the value of a process, or `:error` unless it runs on this node."
  @spec fetch(GenServer.server()) :: {:ok, term} | :error
  def fetch(server) do
    with pid when is_pid(pid) <- GenServer.whereis(server),
         [] <- Registry.lookup(__MODULE__, pid),
         :ok <- await_start(pid),
         [] <- Registry.lookup(__MODULE__, pid) do
      :error
    else
      [{_pid, value}] -> {:ok, value}
      _none -> :error
    end
  end

  # A process has its name before its `init/1` registers it. OTP's own request is answered after that, by any process.
  defp await_start(pid) when node(pid) == node() do
    _state = :sys.get_state(pid)
    :ok
  catch
    :exit, _reason -> :error
  end

  defp await_start(_remote), do: :error
end
