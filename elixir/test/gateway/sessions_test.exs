defmodule DSPexFleet.Gateway.SessionsTest do
  use DSPexFleet.GatewayCase, async: true

  alias DSPexFleet.{Experiment, Sessions}

  setup do
    ctx = context!()
    {:ok, ctx: ctx, session: Session.id!(ctx)}
  end

  test "a session's state says who applies what, once a worker has used it", %{ctx: ctx, session: session} do
    token = Variables.set!(ctx, :warmth, 0.5)
    assert %{name: ^session, token: ^token, rollout: nil, experiments: [], acknowledgements: []} = Sessions.get!(ctx)
    assert {:error, %Error{reason: :revision_not_applied}} = Sessions.promote(ctx, :stable, wait: 100)

    DSPexFleet.predict!(ctx, program(), %{question: fresh("q")}, at_least: token)
    assert eventually(fn -> match?([%{token: ^token, error: ""}], Sessions.get!(ctx).acknowledgements) end)
    assert %{name: "stable", token: ^token} = Sessions.promote!(ctx, :stable, author: "ann")
    assert Enum.any?(Sessions.list!(ctx, prefix: session), &(&1.name == session))
    assert Sessions.list!(ctx, prefix: session <> "-none") == []
    Variables.set!(context!(session: session <> "-other"), :a, 1)
    assert [%{name: ^session}] = Sessions.list!(ctx, prefix: session, limit: 1)
  end

  test "labels are set, moved and removed, and name revisions", %{ctx: ctx} do
    first = Variables.set!(ctx, :a, 1)
    second = Variables.set!(ctx, :a, 2)
    assert %{token: ^first} = Sessions.set_label!(ctx, :good, at: first, reason: "it works")
    assert [%{name: "good", reason: "it works"}] = Sessions.labels!(ctx)
    assert {:error, %Error{reason: :label_moved}} = Sessions.set_label(ctx, :good, expected: :absent)
    assert %{token: ^second} = Sessions.set_label!(ctx, :newest)
    assert Variables.diff!(ctx, "good", "newest") |> Map.keys() == ["a"]
    assert %{"a" => {%Variable{value: 1}, %Variable{value: 2}}} = Variables.diff!(ctx, first)

    third = Variables.rollback!(ctx, "good")
    assert Variables.get!(ctx, :a, at_least: third) == 1
    assert Sessions.remove_label(ctx, :good) == :ok
    assert [%{name: "newest"}] = Sessions.labels!(ctx)
  end

  test "a check holds for each publish until it is removed", %{ctx: ctx} do
    Variables.publish!(ctx, a: 1, b: 2)
    schema = %{properties: %{a: %{maximum: 5}}}
    assert %{"small" => {:schema, %{"properties" => _}}} = Sessions.declare_checks!(ctx, small: schema)
    assert {:error, %Error{reason: :check_failed}} = Variables.set(ctx, :a, 6)
    assert Map.keys(Sessions.checks!(ctx)) == ["small"]
    assert Sessions.declare_checks!(ctx, %{"small" => nil}) == %{}
    assert {:ok, _token} = Variables.set(ctx, :a, 6)
    assert {:error, %Error{reason: :invalid_value}} = Sessions.declare_checks(ctx, small: 7)
  end

  test "retention is set and reset", %{ctx: ctx} do
    first = Variables.set!(ctx, :a, 1)
    assert %{default?: true} = Sessions.retention!(ctx)
    assert %{revisions: 2, age_s: nil, default?: false} = Sessions.set_retention!(ctx, revisions: 2)
    for n <- 2..6, do: Variables.set!(ctx, :a, n)
    assert {:error, %Error{reason: :revision_lost}} = Variables.get(ctx, :a, exactly: first)
    assert %{default?: true} = Sessions.set_retention!(ctx, [])
  end

  test "an experiment divides requests until it is decided", %{ctx: ctx, session: session} do
    cold = Variables.set!(ctx, :warmth, 0.1)
    warm = Variables.set!(ctx, :warmth, 0.9)
    arms = [%{name: :cold, weight: 0.5, revision: cold}, %{name: :warm, weight: 0.5, revision: warm}]

    assert %Experiment{state: :running, target: "session:" <> ^session} =
             Experiment.start!(ctx, session, "tone", arms, author: "ann", reason: "which is best")

    assert [%Experiment{name: "tone", winner: nil, arms: [%{name: "cold", weight: 0.5}, _warm]}] =
             Experiment.list!(ctx, session)

    assert Enum.any?(Experiment.list!(ctx, :all), &(&1.target == "session:" <> session))
    assert [%Experiment{name: "tone"}] = Sessions.get!(ctx).experiments
    assert {%Experiment{state: :running}, %{"arms" => _}} = Experiment.show!(ctx, session, "tone")
    once = [author: "ann", reason: "scores", request_id: fresh("id")]
    assert %{state: :decided, winner: "cold"} = Experiment.decide!(ctx, session, "tone", :cold, once)
    assert %{state: :decided, winner: "cold"} = Experiment.decide!(ctx, session, "tone", :cold, once)
    assert Variables.get!(ctx, :warmth) == 0.1

    assert [%{kind: :started, position: position}, %{kind: :decided, reason: "scores"}] =
             Experiment.events!(ctx, session)

    assert [%{kind: :decided}] = Experiment.events!(ctx, session, after: position)
  end

  test "an experiment that can't be is refused by name, and one can be stopped", %{ctx: ctx, session: session} do
    token = Variables.set!(ctx, :warmth, 0.1)
    arm = &%{name: &1, weight: &2, revision: token}

    assert {:error, %Error{reason: :experiment}} =
             Experiment.start(ctx, session, "tone", [arm.("a", 0.5), arm.("b", 0.1)])

    assert {:error, %Error{reason: :invalid_value}} = Experiment.start(ctx, session, "tone", [%{name: "a"}])
    assert {:error, %Error{reason: :experiment_not_found}} = Experiment.show(ctx, session, "tone")

    Variables.set!(ctx, :warmth, 0.9)
    arms = [arm.("a", 0.5), %{name: "b", weight: 0.5, revision: "latest"}]
    Experiment.start!(ctx, session, "tone", arms, author: "ann", reason: "?")
    assert %{state: :stopped, winner: nil} = Experiment.stop!(ctx, session, "tone", author: "ann", reason: "enough")
  end
end
