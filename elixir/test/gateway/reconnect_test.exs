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
    ref = Variables.watch!(ctx)
    await_snapshot(ref, fn _any -> true end)
    Proxy.cut(proxy, refuse: true)
    assert_receive {:dspex_fleet, ^ref, {:interrupted, %Error{reason: :gateway_unavailable}}}, 10_000

    other = context!(session: Context.session(ctx))
    token = Variables.set!(other, :a, 2)
    Proxy.open(proxy)
    assert await_snapshot(ref, fn _any -> true end).token == token
  end

  test "telemetry says when the connection goes and comes", %{ctx: ctx, proxy: proxy} do
    ref = follow([[:dspex_fleet, :connection, :up], [:dspex_fleet, :connection, :down]])
    address = "ipv4:" <> Proxy.address(proxy)
    Proxy.cut(proxy)
    assert_receive {^ref, [_, _, :down], %{}, %{target: ^address}}, 10_000
    assert_receive {^ref, [_, _, :up], %{attempts: _}, %{target: ^address}}, 10_000
    assert {:ok, 1} = Variables.get(ctx, :a)
    assert Context.connected?(ctx)
  end

  test "telemetry spans each call with its outcome", %{ctx: ctx} do
    ref = follow([[:dspex_fleet, :call, :stop]])
    session = Context.session(ctx)
    Variables.get(ctx, :a)
    assert_receive {^ref, _event, %{duration: _}, %{operation: :get, session: ^session, error: nil}}
    Variables.get(ctx, :no_such)
    assert_receive {^ref, _event, _, %{session: ^session, error: %Error{reason: :variable_not_found}}}
  end

  test "a dead network ends a call at its own timeout", %{ctx: ctx, proxy: proxy} do
    Proxy.swallow(proxy)
    before = System.monotonic_time(:millisecond)
    assert {:error, %Error{reason: reason}} = Variables.get(ctx, :a, timeout: 200)
    assert reason in [:deadline_exceeded, :gateway_unavailable]
    assert System.monotonic_time(:millisecond) - before >= 200
  end

  test "a dead network is noticed by pings, and the connection made anew", %{proxy: proxy} do
    ctx = context!(target: Proxy.address(proxy), backoff: {20, 200}, keepalive: 500)
    Variables.set!(ctx, :a, 1)
    ref = Variables.watch!(ctx)
    await_snapshot(ref, fn _any -> true end)
    Proxy.swallow(proxy)
    assert_receive {:dspex_fleet, ^ref, {:interrupted, _error}}, 10_000
    token = Variables.set!(ctx, :a, 2)
    assert await_snapshot(ref, fn _any -> true end).token == token
  end

  test "nothing of a call that ran out of time stays behind", %{ctx: ctx, proxy: proxy} do
    ref = Variables.watch!(ctx)
    await_snapshot(ref, fn _any -> true end)
    token = Variables.snapshot!(ctx).token
    future = %{token | revision: token.revision + 1}
    for _ <- 1..5, do: Variables.get(ctx, :a, at_least: future, wait: 20_000, timeout: 100)
    %{connection: connection} = :sys.get_state(ctx)
    %{channel: %{adapter_payload: %{conn_pid: socket}}} = :sys.get_state(connection)
    assert map_size(:sys.get_state(socket).response_processes) == 1
    assert Process.alive?(proxy)
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

  defp eventually(passes?, tries \\ 200) do
    passes?.() or (tries > 0 and (Process.sleep(25) == :ok and eventually(passes?, tries - 1)))
  end
end
