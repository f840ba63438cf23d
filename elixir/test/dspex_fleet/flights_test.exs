defmodule DSPexFleet.FlightsTest do
  use ExUnit.Case, async: true

  alias DSPexFleet.Connection.Flights

  setup do
    {:ok, flights: Flights.new()}
  end

  test "a break tells those that wait, and not those that have their answer", %{flights: flights} do
    Flights.depart(flights, self(), Flights.breaks(flights))
    Flights.broke(flights, :closed)
    assert_received {:connection_down, :closed}

    Flights.land(flights, self())
    Flights.broke(flights, :closed)
    refute_received {:connection_down, _reason}
  end

  test "a request that was written while the connection broke is told too", %{flights: flights} do
    breaks = Flights.breaks(flights)
    Flights.broke(flights, :closed)
    Flights.depart(flights, self(), breaks)
    assert_received {:connection_down, :closed}
  end

  test "a request on a connection that is gone is told, and nothing crashes" do
    flights = fn -> Flights.new() end |> Task.async() |> Task.await()
    Flights.depart(flights, self(), 0)
    assert_received {:connection_down, :closed}
    assert Flights.land(flights, self()) == :ok
    assert Flights.broke(flights, :closed) == :ok
  end
end
