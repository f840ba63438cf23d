defmodule DSPexFleet.ProcessesTest do
  use ExUnit.Case, async: true

  alias DSPexFleet.Processes

  defmodule SlowStart do
    use GenServer

    @impl true
    def init(test) do
      send(test, :named)

      receive do
        :go_on -> Processes.register(:started)
      end

      {:ok, nil}
    end
  end

  test "a process that is still starting is waited for" do
    test = self()
    spawn_link(fn -> {:ok, _pid} = GenServer.start(SlowStart, test, name: __MODULE__.Slow) end)
    assert_receive :named
    pid = Process.whereis(__MODULE__.Slow)
    fetching = Task.async(fn -> Processes.fetch(__MODULE__.Slow) end)
    refute Task.yield(fetching, 50)
    send(pid, :go_on)
    assert Task.await(fetching) == {:ok, :started}
    GenServer.stop(pid)
  end

  test "a process that never registers isn't found, and goes on" do
    {:ok, pid} = Agent.start_link(fn -> :foreign end)
    assert Processes.fetch(pid) == :error
    assert Agent.get(pid, & &1) == :foreign
  end

  test "a process that has ended isn't found" do
    {pid, ref} = spawn_monitor(fn -> :ok end)
    assert_receive {:DOWN, ^ref, :process, ^pid, :normal}
    assert Processes.fetch(pid) == :error
  end
end
