defmodule DSPexFleet.GatewayProcess do
  @moduledoc """
  A gateway that a test starts, stops and kills, by the command in `DSPEX_FLEET_GATEWAY` (a JSON list, to which `--http` is
  added).
  """

  use GenServer

  # A Python process on a loaded machine.
  @start_ms 240_000

  def start_link(address), do: GenServer.start_link(__MODULE__, address)
  def address(gateway), do: GenServer.call(gateway, :address, @start_ms)

  @doc ~S(Sends the process a signal, such as `"KILL"`, `"STOP"` or `"CONT"`.)
  def signal(gateway, name), do: GenServer.call(gateway, {:signal, name}, @start_ms)

  @doc "Starts it again under the same address if it was killed, and lets it go on if it was stopped."
  def revive(gateway), do: GenServer.call(gateway, :revive, @start_ms + 1_000)

  @impl true
  def init(address) do
    Process.flag(:trap_exit, true)
    {:ok, start(%{address: address})}
  end

  @impl true
  def handle_call(:address, _from, state), do: {:reply, state.address, state}

  def handle_call({:signal, name}, _from, state) do
    kill(state, name)
    {:reply, :ok, if(name == "KILL", do: await_end(state), else: state)}
  end

  def handle_call(:revive, _from, %{os_pid: nil} = state), do: {:reply, :ok, start(state)}
  def handle_call(:revive, _from, state), do: {:reply, kill(state, "CONT"), state}

  @impl true
  def handle_info({port, {:data, _log}}, %{port: port} = state), do: {:noreply, state}
  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state), do: kill(state, "KILL")

  defp start(state) do
    [command | arguments] = "DSPEX_FLEET_GATEWAY" |> System.fetch_env!() |> JSON.decode!()
    arguments = arguments ++ ["--http", state.address]
    port = Port.open({:spawn_executable, command}, [:binary, :exit_status, line: 10_000, args: arguments])
    {:os_pid, os_pid} = Port.info(port, :os_pid)

    receive do
      {^port, {:data, {:eol, line}}} ->
        Map.merge(state, %{port: port, os_pid: os_pid, address: JSON.decode!(line)["http"]})

      {^port, {:exit_status, status}} ->
        raise "the gateway ended with #{status}"
    after
      @start_ms -> raise "the gateway didn't start"
    end
  end

  defp await_end(%{port: port} = state) do
    receive do
      {^port, {:exit_status, _status}} -> %{state | os_pid: nil}
    after
      10_000 -> raise "the gateway didn't end"
    end
  end

  # One that has ended already isn't there to be killed.
  defp kill(%{os_pid: nil}, _name), do: :ok

  defp kill(state, name) do
    {_output, _status} = System.cmd("kill", ["-#{name}", "#{state.os_pid}"], stderr_to_stdout: true)
    :ok
  end
end
