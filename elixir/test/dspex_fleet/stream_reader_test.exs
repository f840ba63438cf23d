defmodule DSPexFleet.StreamReaderTest do
  use ExUnit.Case, async: true

  alias DSPexFleet.{Connection, Error, Session, Variables}

  defmodule Breaking do
    @behaviour DSPexFleet.Transport

    def open(_target, %{transport: {__MODULE__, test}}), do: test
    def check(_test, _timeout), do: :ok
    def request(_test, _operation, _message, _opts), do: {:ok, %{"token" => "1.1"}}

    # It breaks in the way that the test says.
    def stream(test, _operation, _message, _opts) do
      open = fn -> send(test, {:opened, self()}) && nil end
      Stream.resource(open, fn _state -> break(test) end, fn _state -> :ok end)
    end

    defp break(test) do
      receive do
        :raise -> raise "it broke"
        :exit -> GenServer.call(:nobody, :hello)
        :nonsense -> {[{:ok, %{"token" => "no token"}}], nil}
        :snapshot -> {[:open, {:ok, %{"session" => "s", "token" => "1.2", "variables" => []}}], nil}
      after
        5_000 -> {:halt, test}
      end
    end
  end

  test "a stream that fails is an interruption, tried again after a pause, and its subscribers go on" do
    connection = start_supervised!({Connection, transport: {Breaking, self()}})
    session = Session.new("s", connection: connection)
    assert {:ok, _token} = Variables.set(session, :a, 1)
    supervisor = Process.whereis(DSPexFleet.Replica.Supervisor)
    :ok = DSPexFleet.subscribe(session)

    assert_receive {:opened, reader}, 5_000
    send(reader, :raise)
    assert_receive {:dspex_fleet, :interrupted, {"s", %Error{message: message}}}, 5_000
    assert message =~ "it broke"
    assert_receive {:opened, ^reader}, 5_000
    send(reader, :exit)
    assert_receive {:opened, ^reader}, 5_000
    send(reader, :snapshot)
    assert_receive {:dspex_fleet, :resumed, "s"}, 5_000
    assert_receive {:dspex_fleet, :snapshot, %{token: %{revision: 2}}}, 5_000
    send(reader, :nonsense)
    assert_receive {:dspex_fleet, :interrupted, {"s", %Error{reason: :bad_answer}}}, 5_000
    assert Process.whereis(DSPexFleet.Replica.Supervisor) == supervisor
  end
end
