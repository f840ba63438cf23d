defmodule DSPexFleet.Gateway.SeveralGatewaysTest do
  # Kills gateways, and counts what becomes of everybody else's requests.
  use DSPexFleet.GatewayCase, async: false

  alias DSPexFleet.{GatewayProcess, Proxy}

  @moduletag :gateways
  @moduletag timeout: 300_000

  setup_all do
    {:ok, processes: for(_ <- 1..2, do: start_supervised!({GatewayProcess, "127.0.0.1:0"}, id: make_ref()))}
  end

  setup %{processes: gateways} do
    Enum.each(gateways, &GatewayProcess.revive/1)
    targets = Enum.map(gateways, &GatewayProcess.address/1)
    connection = start_supervised!({Connection, targets: targets, backoff: {50, 500}, keepalive: 1_000})
    session = Session.new(fresh("elixir"), connection: connection)
    Variables.set!(session, :n, 0)
    assert eventually(fn -> states(connection) == [:up, :up] end)
    {:ok, connection: connection, session: session}
  end

  defp states(connection) do
    {:ok, gateways} = Connection.gateways(connection)
    for {_label, state} <- gateways, do: state
  end

  defp slowest_ms(count, fun) do
    Enum.max(for n <- 1..count, do: fun |> timed(n) |> div(1_000))
  end

  defp timed(fun, n) do
    {time, _result} = :timer.tc(fn -> fun.(n) end)
    time
  end

  test "one of two that is killed costs no call", context do
    calls = fn -> slowest_ms(100, &Variables.set!(context.session, :n, &1)) end
    calls.()
    GatewayProcess.signal(hd(context.processes), "KILL")
    # Longer than a call takes under load, and below the timeouts of a call and of an attempt to connect.
    assert calls.() < 5_000
    assert eventually(fn -> states(context.connection) == [:down, :up] end)
    assert length(Variables.history!(context.session, limit: 300)) == 201

    GatewayProcess.revive(hd(context.processes))
    assert eventually(fn -> states(context.connection) == [:up, :up] end)
  end

  test "one of two that no longer answers costs no call, and holds up nobody for long", context do
    GatewayProcess.signal(hd(context.processes), "STOP")
    assert slowest_ms(30, &Variables.set!(context.session, :n, &1)) < 10_000
    assert states(context.connection) == [:down, :up]
    GatewayProcess.revive(hd(context.processes))
    assert eventually(fn -> states(context.connection) == [:up, :up] end)
    assert Variables.get!(context.session, :n) == 30
  end

  test "while both are down calls wait, and go on with either", context do
    Enum.each(context.processes, &GatewayProcess.signal(&1, "KILL"))
    assert {:error, %Error{reason: :gateway_unavailable}} = Variables.set(context.session, :n, 1, timeout: 500)
    waiting = for n <- 1..20, do: Task.async(fn -> Variables.set(context.session, "v#{n}", n, timeout: 260_000) end)
    GatewayProcess.revive(List.last(context.processes))
    assert waiting |> Task.await_many(270_000) |> Enum.all?(&match?({:ok, _token}, &1))
    assert map_size(Variables.snapshot!(context.session).variables) == 21
  end

  test "ten thousand subscribers cost one stream, and each gets what is published", context do
    proxy = start_supervised!({Proxy, GatewayProcess.address(hd(context.processes))})
    connection = start_supervised!({Connection, name: fresh_name(), target: Proxy.address(proxy)}, id: :proxied)
    session = Session.new(context.session.id, connection: connection)
    Variables.set!(session, :n, 0)
    test = self()
    before = Proxy.connections(proxy)

    subscribers =
      for _ <- 1..10_000 do
        spawn_link(fn ->
          :ok = DSPexFleet.subscribe(session, names: [:n])
          # How long it may take is the test's to say: the first of them waits until the last has subscribed.
          await_snapshot(fn _any -> true end, :infinity)
          send(test, {:subscribed, self()})
          await_snapshot(&(Snapshot.value(&1, :n) == 1), :infinity)
          send(test, {:got_it, self()})
        end)
      end

    for pid <- subscribers, do: assert_receive({:subscribed, ^pid}, 60_000)
    # One stream, and a check of the gateway now and then.
    assert Proxy.open_connections(proxy) <= 3
    assert Proxy.connections(proxy) - before <= 8
    Variables.set!(context.session, :n, 1)
    for pid <- subscribers, do: assert_receive({:got_it, ^pid}, 60_000)
  end

  test "under kills of gateways, replicas and readers nothing is lost and nobody is silent", context do
    %{session: session, processes: gateways} = context
    test = self()

    watchers =
      for _ <- 1..2_000 do
        spawn_link(fn ->
          :ok = DSPexFleet.subscribe(session)
          send(test, {:last, self(), watch_until("end", {nil, true})})
        end)
      end

    victims = for _ <- 1..200, do: spawn(fn -> DSPexFleet.subscribe(session) && Process.sleep(:infinity) end)
    publishing = Task.async(fn -> for n <- 1..150, do: Variables.set!(session, :n, n, timeout: 60_000) end)

    for round <- 1..4 do
      gateway = Enum.at(gateways, rem(round, 2))
      GatewayProcess.signal(gateway, "KILL")
      victims |> Enum.slice((round - 1) * 50, 50) |> Enum.each(&Process.exit(&1, :kill))
      {:ok, resolved} = Session.resolve(session)
      resolved |> Replica.key() |> Replica.ensure() |> Process.exit(:kill)
      GatewayProcess.revive(gateway)
    end

    tokens = Task.await(publishing, 200_000)
    assert tokens == tokens |> Enum.uniq() |> Enum.sort(Token)
    # Each publish is one revision, besides the one of the set-up.
    assert length(Variables.history!(session, limit: 200)) == 151

    last = Variables.set!(session, :state, "end", timeout: 60_000)
    for pid <- watchers, do: assert_receive({:last, ^pid, {^last, true}}, 60_000)
  end

  # Returns the token of the snapshot that ends it, and whether none of those before went back.
  defp watch_until(text, {before, ordered}) do
    receive do
      {:dspex_fleet, :snapshot, snapshot} ->
        ordered = ordered and (before == nil or Token.compare(snapshot.token, before) != :lt)
        seen = {snapshot.token, ordered}
        if Snapshot.value(snapshot, :state) == text, do: seen, else: watch_until(text, seen)

      {:dspex_fleet, kind, _news} when kind in [:interrupted, :resumed] ->
        watch_until(text, {before, ordered})
    end
  end

  defp fresh_name, do: :"fleet_#{System.unique_integer([:positive])}"
end
