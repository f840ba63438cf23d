defmodule DSPexFleet.Gateway.WatchTest do
  use DSPexFleet.GatewayCase, async: true

  setup do
    {:ok, ctx: context!()}
  end

  test "a watch sends the current snapshot, then each newer one", %{ctx: ctx} do
    first = Variables.set!(ctx, :a, 1)
    ref = Variables.watch!(ctx)
    assert_receive {:dspex_fleet, ^ref, {:snapshot, %Snapshot{token: ^first} = snapshot}}, 10_000
    assert Snapshot.value(snapshot, :a) == 1

    second = Variables.set!(ctx, :a, 2)
    assert_receive {:dspex_fleet, ^ref, {:snapshot, %Snapshot{token: ^second}}}, 10_000
  end

  test "a watch after a token sends only what is newer", %{ctx: ctx} do
    first = Variables.set!(ctx, :a, 1)
    ref = Variables.watch!(ctx, after: first)
    second = Variables.set!(ctx, :a, 2)
    assert_receive {:dspex_fleet, ^ref, {:snapshot, %Snapshot{token: ^second}}}, 10_000
    refute_received {:dspex_fleet, ^ref, {:snapshot, %Snapshot{token: ^first}}}
  end

  test "a watch of some variables shows those", %{ctx: ctx} do
    Variables.publish!(ctx, a: 1, b: 2)
    ref = Variables.watch!(ctx, names: [:b])
    assert_receive {:dspex_fleet, ^ref, {:snapshot, snapshot}}, 10_000
    assert Map.keys(snapshot.variables) == ["b"]
  end

  test "snapshots come in order and end at the newest, however fast they are published", %{ctx: ctx} do
    ref = Variables.watch!(ctx)
    last = Enum.reduce(1..50, nil, fn n, _before -> Variables.set!(ctx, :n, n) end)
    await_snapshot(ref, &(&1.token == last))
    Variables.unwatch(ctx, ref)
  end

  test "no message comes after unwatch", %{ctx: ctx} do
    Variables.set!(ctx, :a, 1)
    ref = Variables.watch!(ctx)
    await_snapshot(ref, fn _any -> true end)
    assert Variables.unwatch(ctx, ref) == :ok

    other = Variables.watch!(ctx)
    last = Variables.set!(ctx, :a, 2)
    await_snapshot(other, &(&1.token == last))
    refute_received {:dspex_fleet, ^ref, _news}
  end

  test "a watch ends with its subscriber", %{ctx: ctx} do
    Variables.set!(ctx, :a, 1)
    subscriber = spawn(fn -> Process.sleep(:infinity) end)
    ref = Variables.watch!(ctx, subscriber: subscriber)
    %{watches: %{^ref => watch}} = :sys.get_state(ctx)
    down = Process.monitor(watch)

    Process.exit(subscriber, :kill)
    assert_receive {:DOWN, ^down, :process, ^watch, :normal}, 10_000
    assert :sys.get_state(ctx).watches == %{}
  end

  test "a watch of a session that isn't there says so once, and shows it when it comes", %{ctx: ctx} do
    ref = Variables.watch!(ctx)
    token = Variables.set!(ctx, :a, 1)
    assert await_snapshot(ref, fn _any -> true end).token == token
  end
end
