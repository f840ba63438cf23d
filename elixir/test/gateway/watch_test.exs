defmodule DSPexFleet.Gateway.WatchTest do
  use DSPexFleet.GatewayCase, async: true

  alias DSPexFleet.Subscribers

  setup do
    {:ok, ctx: context!()}
  end

  test "a subscriber gets the current snapshot, then each newer one", %{ctx: ctx} do
    first = Variables.set!(ctx, :a, 1)
    assert DSPexFleet.subscribe(ctx) == :ok
    assert_receive {:dspex_fleet, :snapshot, %Snapshot{token: ^first} = snapshot}, 10_000
    assert Snapshot.value(snapshot, :a) == 1

    second = Variables.set!(ctx, :a, 2)
    assert_receive {:dspex_fleet, :snapshot, %Snapshot{token: ^second}}, 10_000
  end

  test "a subscription after a token sends only what is newer", %{ctx: ctx} do
    first = Variables.set!(ctx, :a, 1)
    DSPexFleet.subscribe(ctx, after: first)
    second = Variables.set!(ctx, :a, 2)
    assert_receive {:dspex_fleet, :snapshot, %Snapshot{token: ^second}}, 10_000
    refute_received {:dspex_fleet, :snapshot, %Snapshot{token: ^first}}
  end

  test "a subscription of some variables shows those", %{ctx: ctx} do
    Variables.publish!(ctx, a: 1, b: 2)
    DSPexFleet.subscribe(ctx, names: [:b])
    assert_receive {:dspex_fleet, :snapshot, snapshot}, 10_000
    assert Map.keys(snapshot.variables) == ["b"]
  end

  test "snapshots come in order and end at the newest, however fast they are published", %{ctx: ctx} do
    DSPexFleet.subscribe(ctx)
    last = Enum.reduce(1..50, nil, fn n, _before -> Variables.set!(ctx, :n, n) end)
    tokens = collect_until(last)
    assert tokens == Enum.sort(tokens, Token)
  end

  defp collect_until(last) do
    receive do
      {:dspex_fleet, :snapshot, %{token: ^last}} -> [last]
      {:dspex_fleet, :snapshot, %{token: token}} -> [token | collect_until(last)]
    after
      10_000 -> raise "the newest snapshot didn't come"
    end
  end

  test "no message comes after unsubscribe", %{ctx: ctx} do
    Variables.set!(ctx, :a, 1)
    DSPexFleet.subscribe(ctx)
    await_snapshot()
    Variables.set!(ctx, :a, 2)
    assert DSPexFleet.unsubscribe(ctx) == :ok

    last = Variables.set!(ctx, :a, 3)
    assert Replica.get!(ctx, :a, at_least: last) == 3
    refute_received {:dspex_fleet, _kind, _news}
  end

  test "a subscription ends with its process", %{ctx: ctx} do
    Variables.set!(ctx, :a, 1)
    key = ctx |> session() |> Replica.key()
    subscriber = spawn(fn -> DSPexFleet.subscribe(ctx) && Process.sleep(:infinity) end)
    assert eventually(fn -> Subscribers.count(key) == 1 end)
    Process.exit(subscriber, :kill)
    assert eventually(fn -> Subscribers.count(key) == 0 end)
  end

  test "a session that isn't there yet shows when it comes", %{ctx: ctx} do
    DSPexFleet.subscribe(ctx)
    token = Variables.set!(ctx, :a, 1)
    assert await_snapshot().token == token
  end

  test "a replica reads what was published without a request, and waits for a token", %{ctx: ctx} do
    token = Variables.publish!(ctx, [{:a, 1}, {:b, :infinity, type: :float}])
    assert Replica.get!(ctx, :a, at_least: token) == 1
    calls = count_calls(fn -> for _ <- 1..100, do: assert(Replica.get!(ctx, "b") == :infinity) end)
    assert calls == 0

    assert {:error, %Error{reason: :variable_not_found}} = Replica.get(ctx, :c)
    assert Replica.get(ctx, :c, default: 7) == {:ok, 7}
    assert Replica.snapshot!(ctx).token == token

    next = %{token | revision: token.revision + 1}
    assert {:error, %Error{reason: :revision_not_reached}} = Replica.get(ctx, :a, at_least: next, wait: 50)
    reading = Task.async(fn -> Replica.get(ctx, :a, at_least: next, wait: 20_000) end)
    Variables.set!(ctx, :a, 2)
    assert Task.await(reading, 30_000) == {:ok, 2}
  end

  test "reads of a replica never go back, while it is restarted again and again", %{ctx: ctx} do
    key = ctx |> session() |> Replica.key()
    Variables.set!(ctx, :n, 0)
    Replica.get!(ctx, :n)

    readers =
      for _ <- 1..8 do
        Task.async(fn ->
          Enum.reduce(1..2_000, 0, fn _, before ->
            now = Replica.get!(ctx, :n)
            assert now >= before
            now
          end)
        end)
      end

    for n <- 1..30 do
      Variables.set!(ctx, :n, n)
      if rem(n, 3) == 0, do: key |> Replica.ensure() |> Process.exit(:kill)
    end

    Task.await_many(readers, 60_000)
    assert eventually(fn -> Replica.get(ctx, :n) == {:ok, 30} end)
  end

  test "subscribers outlive the replica, and get what comes after it", %{ctx: ctx} do
    Variables.set!(ctx, :a, 1)
    DSPexFleet.subscribe(ctx)
    await_snapshot()

    for n <- 2..6 do
      ctx |> session() |> Replica.key() |> Replica.ensure() |> Process.exit(:kill)
      token = Variables.set!(ctx, :a, n)
      await_snapshot(&(&1.token == token))
    end
  end

  test "a broadcast reaches whoever listens on the session's topic" do
    pubsub = :"pubsub_#{System.unique_integer([:positive])}"
    start_supervised!({Phoenix.PubSub, name: pubsub})
    ctx = context!(pubsub: pubsub)
    :ok = Phoenix.PubSub.subscribe(pubsub, DSPexFleet.topic(Session.id!(ctx)))
    start_supervised!({Replica, session: ctx})
    token = Variables.set!(ctx, :a, 1)
    assert_receive {:dspex_fleet, :snapshot, %Snapshot{token: ^token}}, 10_000
  end

  test "who isn't allowed to read is told so, and so is a connection's end" do
    refused = context!(session: "somebody's", token: System.get_env("DSPEX_FLEET_READER", "forged"))
    DSPexFleet.subscribe(refused)
    assert_receive {:dspex_fleet, :down, {"somebody's", %Error{reason: reason}}}, 10_000
    assert reason in [:not_granted, :unauthenticated]
    assert {:error, %Error{reason: ^reason}} = Replica.get(refused, :a)

    {:ok, connection} = start_connection()
    ended = Session.new(fresh("elixir"), connection: connection)
    Variables.set!(ended, :a, 1)
    DSPexFleet.subscribe(ended)
    await_snapshot()
    GenServer.stop(connection)
    id = ended.id
    assert_receive {:dspex_fleet, :down, {^id, %Error{reason: :context_down}}}, 10_000
  end

  defp start_connection, do: Connection.start_link(target: target(), token: System.get_env("DSPEX_FLEET_TOKEN"))

  defp session(ctx) do
    {:ok, session} = Session.resolve(ctx)
    session
  end
end
