defmodule DSPexFleet.StatusTest do
  use ExUnit.Case, async: true

  alias DSPexFleet.{Error, Status, Testing}

  @at "2026-01-02T03:04:05Z"
  @answer %{
    "at" => @at,
    "processes" => [
      %{
        "node" => "worker@a",
        "pid" => 7,
        "pool" => "asyncio",
        "concurrency" => 20,
        "in_flight" => 2,
        "queues" => ["predictions"],
        "started_at" => @at,
        "reported_at" => @at,
        "succeeded" => 9,
        "failed" => 1,
        "cancelled" => 0
      }
    ],
    "queues" => [%{"queue" => "predictions", "priorities" => "6 to 8", "waiting" => 0}],
    "dead" => 1,
    "limits" => [%{"profile" => "default", "kind" => "requests_per_min", "allowed" => 60.0, "used" => 6.0}],
    "parked_by_profile" => [%{"profile" => "default", "predictions" => 4}],
    "lagging" => [%{"session" => "shop", "processes" => 1, "behind" => 2}],
    "ended" => [%{"at" => @at, "seconds" => 60.0, "succeeded" => 0, "failed" => 1, "cancelled" => 0}]
  }

  setup do
    fleet = start_supervised!(Testing)
    test = self()

    Testing.stub(fleet, "Status.Get", fn request ->
      send(test, {:request, request})
      {:ok, @answer}
    end)

    {:ok, session: Testing.session(fleet)}
  end

  test "what the gateway leaves out is nil", %{session: session} do
    assert {:ok, status} = Status.get(session)
    assert_received {:request, request} when request == %{}
    assert %{held: nil, delayed: nil, parked: nil, dead: 1, parked_by_profile: %{"default" => 4}} = status
    assert status.queues == [%{queue: "predictions", priorities: "6 to 8", waiting: 0, oldest_s: nil}]
    assert [%{p50_s: nil, p95_s: nil, failed: 1, seconds: 60.0}] = status.ended
  end

  test "times are times, and processes, limits and sessions have their fields", %{session: session} do
    status = Status.get!(session, since_s: 600)
    assert_received {:request, %{"since_s" => 600}}
    time = ~U[2026-01-02 03:04:05Z]
    assert %{at: ^time, processes: [%{started_at: ^time, reported_at: ^time} = process], ended: [%{at: ^time}]} = status
    assert {process.node, process.pid, process.queues, process.succeeded} == {"worker@a", 7, ["predictions"], 9}
    # A gateway of an earlier release doesn't say.
    assert process.newer_release == ""
    assert status.limits == [%{profile: "default", kind: "requests_per_min", allowed: 60.0, used: 6.0}]
    assert status.lagging == [%{session: "shop", processes: 1, behind: 2}]
  end

  test "a span that can't be is refused before anything is sent", %{session: session} do
    assert {:error, %Error{reason: :invalid_option}} = Status.get(session, since_s: -1)
    refute_received {:request, _request}
  end
end
