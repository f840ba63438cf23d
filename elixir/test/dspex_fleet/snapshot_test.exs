defmodule DSPexFleet.SnapshotTest do
  use ExUnit.Case, async: true

  alias DSPexFleet.{Error, Rollout, Snapshot}

  test "a staged snapshot shows both arms" do
    variable = &%{"name" => "warmth", "type" => "float", "value" => &1}

    message = %{
      "session" => "s",
      "token" => "1.2",
      "variables" => [variable.(0.9)],
      "rollout" => %{"id" => "r", "target" => "session:s", "state" => "rolled_back", "baseline" => "1.1"},
      "staged" => [%{"name" => "warmth", "before" => variable.(0.1), "after" => variable.(0.9)}]
    }

    assert {:ok, snapshot} = Snapshot.from_message(message)
    assert %Rollout{id: "r", state: :rolled_back, baseline: "1.1"} = snapshot.rollout
    assert %{"warmth" => {%{value: 0.1}, %{value: 0.9}}} = snapshot.staged
    assert Map.keys(Snapshot.select(snapshot, ["cold"]).variables) == []
  end

  test "one that isn't staged has no rollout" do
    message = %{"session" => "s", "token" => "1.2", "variables" => [], "staged" => []}
    assert {:ok, %Snapshot{rollout: nil, staged: none}} = Snapshot.from_message(message)
    assert none == %{}
  end

  test "a token that is none is a bad answer" do
    assert {:error, %Error{reason: :bad_answer}} = Snapshot.from_message(%{"token" => "x"})
    assert {:error, %Error{reason: :bad_answer}} = Snapshot.from_message(%{})
  end
end
