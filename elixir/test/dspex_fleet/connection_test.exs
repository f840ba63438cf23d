defmodule DSPexFleet.ConnectionTest do
  use ExUnit.Case, async: true

  alias DSPexFleet.{Connection, Context, Error, Variables}
  alias DSPexFleet.Connection.{Backoff, Options, Target}

  # Nothing listens on this port.
  @nowhere "127.0.0.1:9"

  test "a context starts without a gateway, and its calls say so when their time is over" do
    {:ok, ctx} = Context.start_link(target: @nowhere, session: "s")
    refute Context.connected?(ctx)
    assert {:error, %Error{reason: :gateway_unavailable, message: message}} = Variables.get(ctx, :a, timeout: 2_000)
    assert message =~ @nowhere
    assert message =~ "econnrefused"
  end

  test "a call on a context that is gone is an error and no exit" do
    {:ok, ctx} = Context.start_link(target: @nowhere)
    GenServer.stop(ctx)
    assert {:error, %Error{reason: :context_down}} = Variables.set(ctx, :a, 1)
    assert_raise Error, ~r/context_down/, fn -> Variables.set!(ctx, :a, 1) end
  end

  test "contexts share a connection by its name, and outlive it" do
    start_supervised!({Connection, name: :shared_fleet, target: @nowhere})
    {:ok, ctx} = Context.start_link(connection: :shared_fleet, session: "s")
    stop_supervised!(:shared_fleet)
    assert {:error, %Error{reason: :context_down}} = Variables.get(ctx, :a, timeout: 50)
    assert Context.session(ctx) == "s"
  end

  test "a context that is busy delays nobody who looks it up" do
    {:ok, ctx} = Context.start_link(target: @nowhere, session: "s")
    :sys.suspend(ctx)
    assert Context.session(ctx) == "s"
    refute Context.connected?(ctx)
    :sys.resume(ctx)
  end

  test "a context without a session makes one up" do
    {:ok, one} = Context.start_link(target: @nowhere)
    {:ok, other} = Context.start_link(target: @nowhere)
    assert Context.session(one) != Context.session(other)
  end

  test "contexts stand side by side under one supervisor" do
    children = for name <- [:ctx_a, :ctx_b], do: {Context, name: name, session: "#{name}", target: @nowhere}
    start_supervised!(%{id: :pair, start: {Supervisor, :start_link, [children, [strategy: :one_for_one]]}})
    assert Context.session(:ctx_a) == "ctx_a"
    assert Context.session(:ctx_b) == "ctx_b"
  end

  test "a token doesn't travel in clear to another host unless it is said so" do
    assert_raise ArgumentError, ~r/in clear/, fn -> Options.new!(target: "gateway.example:50061", token: "t") end
    assert %Options{} = Options.new!(target: "gateway.example:50061", token: "t", insecure: true)
    assert %Options{} = Options.new!(target: "localhost:50061", token: "t")
    assert %Options{} = Options.new!(target: "gateway.example:50061", token: "t", tls: [cacerts: []])
  end

  test "peers are verified over TLS unless it is said otherwise" do
    assert Options.new!(tls: [cacerts: []]).ssl[:verify] == :verify_peer
    assert Options.new!(tls: [cacerts: [], verify: :verify_none]).ssl[:verify] == :verify_none
  end

  test "a token shows in no inspection" do
    refute inspect(Options.new!(token: "sesame")) =~ "sesame"
    {:ok, connection} = Connection.start_link(target: @nowhere, token: "sesame")
    refute inspect(:sys.get_status(connection), limit: :infinity) =~ "sesame"
  end

  test "a target is a host and port, or a URL" do
    labels = fn opts -> Options.new!(opts).targets |> Enum.map(&Target.label/1) end
    assert labels.(targets: ["a:1", "[::1]:2", "a:1"]) == ["http://a:1", "http://[::1]:2"]
    assert labels.(target: "a:1", tls: [cacerts: []]) == ["https://a:1"]
    assert labels.(target: "https://fleet.example/gateway/") == ["https://fleet.example:443/gateway"]

    for bad <- ["a", "a:x", "ftp://a", "http://", "a:99999", "http://u:p@a"],
        do: assert_raise(ArgumentError, fn -> labels.(target: bad) end)
  end

  test "wrong options are refused by name" do
    assert_raise ArgumentError, ~r/host:port/, fn -> Options.new!(target: "nonsense") end
    assert_raise NimbleOptions.ValidationError, ~r/:backoff/, fn -> Options.new!(backoff: 5) end
    assert_raise NimbleOptions.ValidationError, ~r/unknown options/, fn -> Options.new!(taget: "x:1") end
    assert_raise ArgumentError, ~r/at least one/, fn -> Options.new!(targets: []) end
    assert_raise ArgumentError, ~r/exclude/, fn -> Options.new!(targets: ["a:1"], target: "a:1") end
    assert_raise ArgumentError, ~r/unencrypted/, fn -> Options.new!(target: "http://a", tls: true) end
  end

  test "pauses between attempts grow up to a bound and differ" do
    pauses = for attempt <- 0..40, do: Backoff.delay(attempt, 100, 5_000)
    assert Enum.all?(pauses, &(&1 in 50..5_000))
    assert hd(pauses) <= 100
    assert List.last(pauses) >= 2_500
    assert 30..40 |> Enum.map(&Enum.at(pauses, &1)) |> Enum.uniq() |> length() > 1
  end
end
