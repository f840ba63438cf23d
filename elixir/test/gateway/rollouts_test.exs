defmodule DSPexFleet.Gateway.RolloutsTest do
  use DSPexFleet.GatewayCase, async: true

  alias DSPexFleet.{Assignment, Rollout, RolloutEvent}

  @policy %{stages: [%{share: 0.5, min_s: 86_400}]}

  setup do
    ctx = context!()
    Variables.set!(ctx, :warmth, 0.1)
    {:ok, ctx: ctx, target: Session.id!(ctx)}
  end

  defp start!(ctx, target) do
    rollout = Rollout.start!(ctx, target, %{warmth: 0.9}, policy: @policy, author: "ann", reason: "warmer")
    ref = Rollout.subscribe!(ctx, target)
    assert_receive {:dspex_fleet, :rollout, %RolloutEvent{kind: :started, rollout: %{id: id}} = event}, 10_000
    assert {id, event.reason} == {rollout.id, "warmer"}
    assert_receive {:dspex_fleet, :rollout, %RolloutEvent{kind: :stage} = stage}, 20_000
    {stage, ref}
  end

  test "a rollout is started, looked at and steered, and its events are messages", %{ctx: ctx, target: target} do
    {stage, ref} = start!(ctx, target)
    assert %Rollout{state: :running, stage: 1, share: 0.5} = stage.rollout
    assert stage.author == "controller"

    assert {%Rollout{state: :running}, %{"arms" => %{"candidate" => _}}} = Rollout.show!(ctx, target)
    # The controller keeps the first look within seconds.
    assert eventually(fn -> match?([%{"at" => _, "stage" => 1, "guards" => _} | _later], looks(ctx, target)) end, 1_200)
    assert Enum.any?(Rollout.list!(ctx), &(&1.id == stage.rollout.id))
    assert %{state: :paused} = Rollout.pause!(ctx, target, author: "bob", reason: "look")
    assert %{state: :running} = Rollout.resume!(ctx, target, author: "bob", reason: "fine")
    assert %{state: :rolled_back} = Rollout.abort!(ctx, target, author: "bob", reason: "not now")

    for kind <- [:paused, :resumed, :rolled_back] do
      assert_receive {:dspex_fleet, :rollout, %RolloutEvent{kind: ^kind} = event}, 10_000
      assert event.author =~ "bob"
    end

    assert {:error, %Error{reason: :rollout_state}} = Rollout.pause(ctx, target, author: "bob", reason: "again")
    assert :ok = Rollout.unsubscribe(ref)
    assert Snapshot.value(Variables.snapshot!(ctx), :warmth) == 0.9, "the application's value isn't touched"

    Rollout.subscribe!(ctx, target, after: stage.position)
    assert_receive {:dspex_fleet, :rollout, %RolloutEvent{kind: :paused}}, 10_000
  end

  test "a step that is sent again under its id is taken once", %{ctx: ctx, target: target} do
    start!(ctx, target)
    once = [author: "ann", reason: "enough", request_id: fresh("id")]
    assert %{state: :promoted, sequence: sequence} = Rollout.advance!(ctx, target, once)
    assert %{state: :promoted, sequence: ^sequence} = Rollout.advance!(ctx, target, once)
  end

  test "a key gets its arm, and the prediction says which", %{ctx: ctx, target: target} do
    {%{rollout: rollout}, _ref} = start!(ctx, target)

    for n <- 1..6 do
      prediction = await_arm(ctx, "user-#{n}", rollout)
      [arm] = prediction.provenance.arms
      assert %{rollout: _, stage: 1, target: "session:" <> ^target} = arm
      assert arm.arm == to_string(Assignment.arm(rollout, "user-#{n}"))
      warmth = if arm.arm == "candidate", do: 0.9, else: 0.1
      assert prediction.provenance.record["variables"] == %{"warmth" => warmth}
    end
  end

  test "what can't be rolled out is refused by name", %{ctx: ctx, target: target} do
    assert {:error, %Error{reason: :rollout_policy}} = Rollout.start(ctx, target, %{warmth: 0.9}, policy: %{stages: []})
    assert {:error, %Error{reason: :rollout_candidate}} = Rollout.start(ctx, target, %{warmth: 0.1})
    assert {:error, %Error{reason: :rollout_not_found}} = Rollout.show(ctx, target)
  end

  defp looks(ctx, target) do
    {_rollout, report} = Rollout.show!(ctx, target, looks: 5)
    report["looks"]
  end

  # A stage begins two seconds after it is written, when every worker knows of it.
  defp await_arm(ctx, key, rollout) do
    prediction =
      DSPexFleet.predict!(ctx, program(), %{question: fresh("q")}, key: key, attributes: %{plan: "pro", seats: 3})

    expected = to_string(Assignment.arm(rollout, key))

    if match?([%{arm: ^expected, stage: 1}], prediction.provenance.arms),
      do: prediction,
      else: await_arm(ctx, key, rollout)
  end
end
