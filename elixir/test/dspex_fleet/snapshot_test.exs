defmodule DSPexFleet.SnapshotTest do
  use ExUnit.Case, async: true

  alias Dspex.Fleet.V1
  alias DSPexFleet.{Rollout, Snapshot}

  test "a staged snapshot shows both arms" do
    variable = &%V1.Variable{name: "warmth", type: :VARIABLE_TYPE_FLOAT, value_json: &1}

    wire = %V1.Snapshot{
      session: "s",
      token: "1.2",
      variables: [variable.("0.9")],
      rollout: %V1.Rollout{id: "r", target: "session:s", state: :ROLLOUT_STATE_ROLLED_BACK, baseline: "1.1"},
      staged: [%V1.VariableChange{name: "warmth", before: variable.("0.1"), after: variable.("0.9")}]
    }

    assert {:ok, snapshot} = Snapshot.from_wire(wire)
    assert %Rollout{id: "r", state: :rolled_back, baseline: "1.1"} = snapshot.rollout
    assert %{"warmth" => {%{value: 0.1}, %{value: 0.9}}} = snapshot.staged
  end

  test "one that isn't staged has no rollout" do
    assert {:ok, %Snapshot{rollout: nil, staged: none}} = Snapshot.from_wire(%V1.Snapshot{session: "s", token: "1.2"})
    assert none == %{}
  end
end
