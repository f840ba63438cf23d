defmodule DSPexFleet.RolloutTest do
  use ExUnit.Case, async: true

  alias DSPexFleet.{Error, Rollout, Testing}

  @rollout %{
    "target" => "session:shop",
    "id" => "r",
    "state" => "running",
    "stage" => 1,
    "share" => 0.5,
    "baseline" => "1.1",
    "candidate" => "1.2",
    "sequence" => 3
  }
  @look %{"at" => 1_767_323_045.5, "stage" => 1, "guards" => [%{"metric" => "error_rate"}]}

  setup do
    fleet = start_supervised!(Testing)
    test = self()

    Testing.stub(fleet, "Rollouts.Show", fn request ->
      send(test, {:request, request})
      looks = if request["looks"] in [nil, 0], do: %{}, else: %{"looks" => [@look]}
      {:ok, %{"rollout" => @rollout, "report" => Map.merge(%{"arms" => %{}}, looks)}}
    end)

    {:ok, session: Testing.session(fleet)}
  end

  test "a report has no looks unless some are wanted", %{session: session} do
    assert {:ok, {%Rollout{id: "r", state: :running}, report}} = Rollout.show(session, "shop")
    assert_received {:request, request} when request == %{"target" => "shop"}
    refute Map.has_key?(report, "looks")
  end

  test "a report has as many looks as are wanted at most, as the fleet has them", %{session: session} do
    assert {%Rollout{share: 0.5}, report} = Rollout.show!(session, "shop", looks: 100, timeout: 5_000)
    assert_received {:request, request} when request == %{"target" => "shop", "looks" => 100}
    assert report["looks"] == [@look]
  end

  test "a number of looks that can't be is refused before anything is sent", %{session: session} do
    for options <- [[looks: -1], [looks: 601], [looks: "100"], [look: 1], 5_000],
        do: assert({:error, %Error{reason: :invalid_option}} = Rollout.show(session, "shop", options))

    assert_raise Error, fn -> Rollout.show!(session, "", looks: 1) end
    refute_received {:request, _request}
  end
end
