defmodule DSPexFleet.Gateway.StreamsTest do
  # Counts what happens to others, and loads the gateway with a thousand streams.
  use DSPexFleet.GatewayCase, async: false

  alias DSPexFleet.{Call, Proxy}

  @moduletag timeout: 300_000

  setup do
    proxy = start_supervised!({Proxy, target()})

    # What these tests do to the gateway takes it longer than it may take by default to answer a check, on a loaded
    # machine.
    opts = [target: Proxy.address(proxy), token: System.get_env("DSPEX_FLEET_TOKEN"), check_timeout: 60_000]
    connection = start_supervised!({Connection, opts})
    session = Session.new(fresh("elixir"), connection: connection)
    Variables.publish!(session, warmth: 0.5)
    {:ok, session: session, proxy: proxy, connection: connection}
  end

  # A stream that never ends by itself.
  defp endless(session) do
    {:ok, choice} = Connection.choose(session.connection, 15_000)
    Call.stream(choice, "Variables.Watch", %{"session" => session.id})
  end

  defp ended!(session) do
    question = fresh("question")
    handle = DSPexFleet.submit!(session, program(), %{question: question}, stream: true)
    DSPexFleet.await!(handle)
    {handle, "answer of #{question}"}
  end

  test "a stream that is opened after the end has all of it, again and again", %{session: session} do
    {handle, answer} = ended!(session)

    for _ <- 1..3 do
      events = handle |> DSPexFleet.stream!() |> Enum.to_list()
      assert for({:piece, "answer", text} <- events, into: "", do: text) == answer
      assert {:ended, %Prediction{state: :succeeded}} = List.last(events)
    end
  end

  test "leaving a stream early, 300 times, disturbs nobody", %{session: session} = context do
    {handle, _answer} = ended!(session)
    bystander = bystander!(session)

    for n <- 1..300 do
      assert {:piece, "answer", _text} =
               handle |> DSPexFleet.stream!() |> Enum.find(&match?({:piece, _, _}, &1))

      if rem(n, 50) == 0, do: assert({:ok, _value} = Variables.get(session, :warmth))
    end

    assert_undisturbed(bystander, context)
  end

  test "a stream that is suspended or enumerated by two goes on for each", %{session: session} do
    {handle, answer} = ended!(session)
    pairs = Enum.zip(DSPexFleet.stream!(handle), DSPexFleet.stream!(handle))
    assert for({{:piece, _, left}, {:piece, _, left}} <- pairs, into: "", do: left) == answer
  end

  test "a thousand readers that are killed leave no connection, and disturb nobody", %{session: session} = context do
    bystander = bystander!(session)
    quiet = Session.new(fresh("elixir"), connection: context.connection)
    Variables.set!(quiet, :a, 1)
    test = self()

    for _ <- 1..10 do
      readers = for _ <- 1..100, do: spawn(fn -> quiet |> endless() |> Enum.each(&send(test, {self(), &1})) end)

      for reader <- readers do
        assert_receive {^reader, :open}, 60_000
        assert_receive {^reader, {:ok, %{"token" => _}}}, 60_000
      end

      for reader <- readers, do: Process.exit(reader, :kill)
    end

    # The bystander's stream and connection, and idle ones that calls share.
    assert eventually(fn -> Proxy.open_connections(context.proxy) <= 4 end)
    assert_undisturbed(bystander, context)
  end

  test "a stream whose connection breaks again and again still has every piece once", %{session: session} = context do
    question = fresh("question")
    handle = DSPexFleet.submit!(session, program(), %{question: question}, stream: true)
    DSPexFleet.await!(handle)

    text =
      handle
      |> DSPexFleet.stream!()
      |> Stream.each(fn event -> if match?({:piece, _, _}, event), do: Proxy.cut(context.proxy) end)
      |> Enum.reduce("", fn
        {:piece, "answer", text}, so_far -> so_far <> text
        _other, so_far -> so_far
      end)

    assert text == "answer of #{question}"
  end

  # It reads a stream and publishes all the while, and says so when either fails.
  defp bystander!(session) do
    test = self()

    spawn_link(fn ->
      :ok = DSPexFleet.subscribe(session)
      token = Variables.set!(session, :bystander, 0)
      await_snapshot(&(Token.compare(&1.token, token) != :lt))
      send(test, :ready)
      bystand(session, 1)
    end)
    |> tap(fn _pid -> assert_receive :ready, 20_000 end)
  end

  defp bystand(session, n) do
    receive do
      {:finish, from, ref} ->
        interrupted = receive(do: ({:dspex_fleet, kind, _news} when kind != :snapshot -> kind), after: (0 -> nil))
        send(from, {ref, n, interrupted})
    after
      0 ->
        token = Variables.set!(session, :bystander, n)
        await_snapshot(&(Token.compare(&1.token, token) != :lt))
        bystand(session, n + 1)
    end
  end

  defp assert_undisturbed(bystander, context) do
    ref = make_ref()
    send(bystander, {:finish, self(), ref})
    assert_receive {^ref, publishes, nil}, 20_000
    assert publishes > 3
    assert Process.alive?(context.connection)
    assert Connection.gateways(context.connection) == {:ok, [{"http://" <> Proxy.address(context.proxy), :up}]}
  end
end
