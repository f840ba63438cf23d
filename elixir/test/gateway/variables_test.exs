defmodule DSPexFleet.Gateway.VariablesTest do
  use DSPexFleet.GatewayCase, async: true

  setup do
    {:ok, ctx: context!()}
  end

  test "a request sends no message to its context or connection" do
    connection = start_supervised!({Connection, target: target(), token: System.get_env("DSPEX_FLEET_TOKEN")})
    ctx = start_supervised!({Context, connection: connection, session: fresh("elixir")})
    Variables.set!(ctx, :a, 1)

    Enum.each([ctx, connection], &:sys.suspend/1)
    assert Context.connected?(ctx)
    assert Variables.get(ctx, :a) == {:ok, 1}
    Enum.each([ctx, connection], &:sys.resume/1)
  end

  test "every variable type comes back as it was published", %{ctx: ctx} do
    for {type, value} <- [
          float: 0.7,
          float: :nan,
          float: :infinity,
          float: :neg_infinity,
          integer: Integer.pow(10, 30),
          string: "grün 🌲 \"quoted\"",
          boolean: false,
          choice: "b",
          module: "ChainOfThought",
          embedding: for(n <- 1..3_000, do: n / 7),
          tensor: %{shape: [250, 400], data: for(n <- 1..100_000, do: n / 1)}
        ] do
      assert there_and_back(ctx, type, value) === value
    end
  end

  test "a Unicode name is a name", %{ctx: ctx} do
    token = Variables.set!(ctx, "Wärme_温度", 0.5)
    assert Variables.get!(ctx, :Wärme_温度, at_least: token) == 0.5
  end

  test "a publish is one revision, and the token that it returns shows it", %{ctx: ctx} do
    token = Variables.publish!(ctx, %{a: 1, b: "x"}, author: "tests", reason: "because")
    snapshot = Variables.snapshot!(ctx, at_least: token)

    assert snapshot.token == token
    assert snapshot.session == Session.id!(ctx)
    assert {Snapshot.value(snapshot, :a), Snapshot.value(snapshot, "b"), Snapshot.value(snapshot, :c, 3)} == {1, "x", 3}
    assert %DateTime{} = snapshot.confirmed_at

    assert [revision] = Variables.history!(ctx)
    assert %{token: ^token, author: "elixir (says: tests)", reason: "because"} = revision
    assert %{"a" => {nil, %Variable{type: :integer, value: 1}}} = revision.changes
  end

  test "a definition carries constraints, and a value that breaks one changes nothing", %{ctx: ctx} do
    token = Variables.defvariable!(ctx, :llm_temperature, :float, 0.7, constraints: %{min: 0.0, max: 2.0})

    assert {:error, %Error{reason: :validation, status: :invalid_argument} = error} =
             Variables.publish(ctx, llm_temperature: 3.0, other: 1)

    assert "llm_temperature" in error.fields
    assert error.message =~ "llm_temperature"
    assert_raise Error, ~r/ValidationError/, fn -> Variables.set!(ctx, :llm_temperature, 3.0) end

    now = Variables.snapshot!(ctx)
    assert now.token == token
    assert Map.keys(now.variables) == ["llm_temperature"]
    assert %{"min" => min, "max" => max} = now.variables["llm_temperature"].constraints
    assert {min, max} == {0.0, 2.0}
  end

  test "a set keeps type and constraints", %{ctx: ctx} do
    Variables.defvariable!(ctx, :tone, :choice, "calm", constraints: %{choices: ["calm", "loud"]})
    Variables.set!(ctx, :tone, "loud")

    assert %{value: "loud", type: :choice, constraints: %{"choices" => ["calm", "loud"]}} =
             Variables.snapshot!(ctx).variables["tone"]
  end

  test "a publish on top of another state is refused, and on top of none where there is one", %{ctx: ctx} do
    first = Variables.publish!(ctx, [a: 1], expected: :absent)
    second = Variables.set!(ctx, :a, 2, expected: first)

    assert {:error, %Error{reason: :stale_token, status: :aborted}} = Variables.set(ctx, :a, 3, expected: first)
    assert {:error, %Error{reason: :stale_token}} = Variables.set(ctx, :a, 3, expected: :absent)
    assert Variables.snapshot!(ctx).token == second
  end

  test "the same request id is one revision", %{ctx: ctx} do
    once = fresh("once")
    assert Variables.set!(ctx, :a, 1, request_id: once) == Variables.set!(ctx, :a, 1, request_id: once)
    assert length(Variables.history!(ctx)) == 1
  end

  test "deleted and replaced variables are gone", %{ctx: ctx} do
    Variables.publish!(ctx, a: 1, b: 2, c: 3)
    Variables.delete!(ctx, [:a])
    assert {:error, %Error{reason: :variable_not_found, status: :not_found}} = Variables.get(ctx, :a)
    assert Variables.get(ctx, :a, default: 7) == {:ok, 7}

    Variables.publish!(ctx, [d: 4], replace: true)
    assert Map.keys(Variables.snapshot!(ctx).variables) == ["d"]
  end

  test "a rollback is a new revision with the old state, and the old one can be read exactly", %{ctx: ctx} do
    first = Variables.set!(ctx, :a, 1)
    second = Variables.set!(ctx, :a, 2)
    third = Variables.rollback!(ctx, first)

    assert Token.compare(third, second) == :gt
    assert Variables.get!(ctx, :a) == 1
    assert Variables.get!(ctx, :a, exactly: second) == 2
  end

  test "a session that isn't there is an error", %{ctx: ctx} do
    assert {:error, %Error{reason: :session_not_found, status: :not_found}} = Variables.snapshot(ctx)
  end

  test "a token that doesn't come in time is an error, and one that comes in time is waited for", %{ctx: ctx} do
    token = Variables.set!(ctx, :a, 1)
    next = %{token | revision: token.revision + 1}
    assert {:error, %Error{reason: :revision_not_reached}} = Variables.get(ctx, :a, at_least: next, wait: 50)

    reading = Task.async(fn -> Variables.get(ctx, :a, at_least: next, wait: 20_000) end)
    Variables.set!(ctx, :a, 2)
    assert Task.await(reading, 30_000) == {:ok, 2}
  end

  test "many processes publish through one context, each its own revision", %{ctx: ctx} do
    tokens =
      1..40
      |> Task.async_stream(&Variables.set!(ctx, "v#{&1}", &1), max_concurrency: 20, timeout: 30_000)
      |> Enum.map(fn {:ok, token} -> token end)

    assert tokens |> Enum.uniq() |> length() == 40
    last = Enum.max(tokens, Token)
    assert map_size(Variables.snapshot!(ctx, at_least: last).variables) == 40
  end
end
