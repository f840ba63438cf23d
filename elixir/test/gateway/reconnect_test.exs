defmodule DSPexFleet.Gateway.ReconnectTest do
  use DSPexFleet.GatewayCase, async: true

  alias DSPexFleet.Proxy

  setup do
    proxy = start_supervised!({Proxy, target()})
    ctx = context!(target: Proxy.address(proxy), backoff: {20, 200})
    Variables.set!(ctx, :a, 1)
    {:ok, ctx: ctx, proxy: proxy}
  end

  defp follow(events) do
    test = self()
    ref = make_ref()
    handler = {__MODULE__, ref}
    :telemetry.attach_many(handler, events, &__MODULE__.told/4, {test, ref})
    on_exit(fn -> :telemetry.detach(handler) end)
    ref
  end

  def told(event, measurements, metadata, {test, ref}), do: send(test, {ref, event, measurements, metadata})

  test "a call after a break works as if there was none", %{ctx: ctx, proxy: proxy} do
    for n <- 1..5 do
      Proxy.cut(proxy)
      assert {:ok, _token} = Variables.set(ctx, :a, n)
      assert Variables.get(ctx, :a) == {:ok, n}
    end

    assert Proxy.connections(proxy) > 1
  end

  test "publishes under constant breaks are each applied once", %{ctx: ctx, proxy: proxy} do
    cutting = Task.async(fn -> for _ <- 1..15, do: {Process.sleep(40), Proxy.cut(proxy)} end)
    tokens = for n <- 1..60, do: Variables.set!(ctx, :a, 100 + n)
    Task.await(cutting, 60_000)

    assert tokens == Enum.sort(tokens, Token)
    history = Variables.history!(ctx, limit: 100)
    assert length(history) == 61
    assert Enum.map(Enum.take(history, 60), & &1.token) == Enum.reverse(tokens)
    assert Proxy.connections(proxy) > 2
  end

  test "a watch goes on after a break with what was missed", %{ctx: ctx, proxy: proxy} do
    DSPexFleet.subscribe(ctx)
    await_snapshot()
    Proxy.cut(proxy, refuse: true)
    id = Session.id!(ctx)
    assert_receive {:dspex_fleet, :interrupted, {^id, %Error{reason: :gateway_unavailable}}}, 10_000
    assert Replica.get!(ctx, :a) == 1
    assert {:error, %Error{reason: :gateway_unavailable}} = Replica.get(ctx, :a, max_outage: 0)

    other = context!(session: id)
    token = Variables.set!(other, :a, 2)
    Proxy.open(proxy)
    assert_receive {:dspex_fleet, :resumed, ^id}, 10_000
    assert await_snapshot().token == token
    assert Replica.get!(ctx, :a, max_outage: 0) == 2
  end

  test "telemetry says when the connection goes and comes", %{ctx: ctx, proxy: proxy} do
    ref = follow([[:dspex_fleet, :connection, :up], [:dspex_fleet, :connection, :down]])
    address = "http://" <> Proxy.address(proxy)
    Proxy.cut(proxy, refuse: true)
    assert {:error, %Error{reason: :gateway_unavailable}} = Variables.get(ctx, :a, timeout: 300)
    assert_receive {^ref, [_, _, :down], %{}, %{target: ^address}}, 10_000
    Proxy.open(proxy)
    assert_receive {^ref, [_, _, :up], %{attempts: _}, %{target: ^address}}, 10_000
    assert {:ok, 1} = Variables.get(ctx, :a)
    assert Context.connected?(ctx)
  end

  test "telemetry spans each call with its outcome", %{ctx: ctx} do
    ref = follow([[:dspex_fleet, :call, :stop]])
    session = Session.id!(ctx)
    Variables.get(ctx, :a)
    assert_receive {^ref, _event, %{duration: _}, %{operation: :get, session: ^session, error: nil}}
    Variables.get(ctx, :no_such)
    assert_receive {^ref, _event, _, %{session: ^session, error: %Error{reason: :variable_not_found}}}
  end

  test "a dead network ends a call at its own timeout", %{ctx: ctx, proxy: proxy} do
    Proxy.swallow(proxy)
    before = System.monotonic_time(:millisecond)
    assert {:error, %Error{reason: reason}} = Variables.get(ctx, :a, timeout: 200)
    assert reason in [:took_too_long, :gateway_unavailable]
    assert System.monotonic_time(:millisecond) - before >= 200
  end

  test "a dead network is noticed by pings, and the connection made anew", %{proxy: proxy} do
    ctx = context!(target: Proxy.address(proxy), backoff: {20, 200}, keepalive: 500)
    Variables.set!(ctx, :a, 1)
    DSPexFleet.subscribe(ctx)
    await_snapshot()
    Proxy.freeze(proxy, true)
    assert_receive {:dspex_fleet, :interrupted, {_session, _error}}, 20_000
    Proxy.freeze(proxy, false)
    token = Variables.set!(ctx, :a, 2)
    assert await_snapshot().token == token
  end

  test "nothing of a call that ran out of time stays behind", %{proxy: proxy} do
    ctx = context!(target: Proxy.address(proxy), wait_pool_size: 2)
    token = Variables.set!(ctx, :a, 1)
    future = %{token | revision: token.revision + 1}

    for _ <- 1..8 do
      assert {:error, %Error{reason: :took_too_long}} =
               Variables.get(ctx, :a, at_least: future, wait: 20_000, timeout: 100)
    end

    assert Variables.get!(ctx, :a, at_least: token, wait: 1_000) == 1
    assert Process.info(self(), :message_queue_len) == {:message_queue_len, 0}
  end

  test "more calls than connections take turns, and none waits for those that wait on the gateway", %{proxy: proxy} do
    ctx = context!(target: Proxy.address(proxy), pool_size: 2, wait_pool_size: 2)
    token = Variables.set!(ctx, :a, 1)
    future = %{token | revision: token.revision + 1}
    waiting = for _ <- 1..6, do: Task.async(fn -> Variables.get(ctx, :a, at_least: future, wait: 20_000) end)

    assert 1..20
           |> Task.async_stream(fn _ -> Variables.get!(ctx, :a) end, max_concurrency: 20)
           |> Enum.all?(&(&1 == {:ok, 1}))

    Variables.set!(ctx, :a, 2)
    assert Task.await_many(waiting, 30_000) == List.duplicate({:ok, 2}, 6)
  end

  test "a context under a supervisor comes back after its connection is killed", %{proxy: proxy} do
    name = :"ctx_#{System.unique_integer([:positive])}"
    ctx = context!(name: name, target: Proxy.address(proxy))
    Variables.set!(name, :a, 1)
    down = Process.monitor(ctx)
    %{connection: connection} = :sys.get_state(ctx)
    Process.exit(connection, :kill)
    assert_receive {:DOWN, ^down, :process, ^ctx, _reason}, 10_000
    assert eventually(fn -> Variables.get(name, :a) == {:ok, 1} end)
  end
end
