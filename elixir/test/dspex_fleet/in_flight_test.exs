defmodule DSPexFleet.InFlightTest do
  use ExUnit.Case, async: true

  alias DSPexFleet.Connection.InFlight

  setup do
    {:ok, in_flight: InFlight.new()}
  end

  test "a break tells those that wait, and not those that have their answer", %{in_flight: in_flight} do
    InFlight.add(in_flight, self(), InFlight.breaks(in_flight))
    InFlight.connection_lost(in_flight, :closed)
    assert_received {:connection_down, :closed}

    InFlight.delete(in_flight, self())
    InFlight.connection_lost(in_flight, :closed)
    refute_received {:connection_down, _reason}
  end

  test "a request that was written while the connection broke is told too", %{in_flight: in_flight} do
    breaks = InFlight.breaks(in_flight)
    InFlight.connection_lost(in_flight, :closed)
    InFlight.add(in_flight, self(), breaks)
    assert_received {:connection_down, :closed}
  end

  test "a request on a connection that is gone is told, and nothing crashes" do
    in_flight = fn -> InFlight.new() end |> Task.async() |> Task.await()
    InFlight.add(in_flight, self(), 0)
    assert_received {:connection_down, :closed}
    assert InFlight.delete(in_flight, self()) == :ok
    assert InFlight.connection_lost(in_flight, :closed) == :ok
  end
end
