defmodule DSPexFleet.ProducerTest do
  use ExUnit.Case, async: true

  alias DSPexFleet.{Error, Handle, Prediction, Producer, Testing}

  setup do
    fleet = start_supervised!(Testing)
    Testing.answer(fleet, "qa", fn inputs, _variables -> %{answer: "answer of #{inputs["question"]}"} end)
    Testing.answer(fleet, "slow", fn _inputs, _variables -> :pending end)
    {:ok, fleet: fleet, session: Testing.session(fleet)}
  end

  defp start!(session, inputs, opts \\ []) do
    opts = Keyword.merge([session: session, program: "qa", inputs: inputs], opts)
    {:ok, producer} = Producer.start_link(opts)
    producer
  end

  defp questions(numbers), do: Stream.map(numbers, &%{question: &1})

  # A request of the producer's process is answered after everything that it has been sent before.
  defp settle(producer), do: :sys.get_state(producer)

  defp await_pending(fleet, count) do
    ids = Map.keys(:sys.get_state(fleet).predictions)

    if length(ids) < count do
      Process.sleep(5)
      await_pending(fleet, count)
    else
      ids
    end
  end

  test "results come as they are asked for, and nothing is submitted before", %{session: session} do
    producer = start!(session, questions(Stream.iterate(1, &(&1 + 1))))
    settle(producer)
    assert Testing.submitted(session) == []

    for wanted <- [3, 1] do
      Producer.ask(producer, wanted)

      for _result <- 1..wanted do
        assert_receive {:dspex_fleet, :predicted, {^producer, %{question: n}, {:ok, %Prediction{outputs: outputs}}}}
        assert outputs == %{"answer" => "answer of #{n}"}
      end
    end

    settle(producer)
    refute_received {:dspex_fleet, _kind, _news}
    assert length(Testing.submitted(session)) == 4
  end

  test "no more predictions are in flight than may be, however many are asked for", %{fleet: fleet, session: session} do
    producer = start!(session, questions(1..10), program: "slow", max_in_flight: 2)
    Producer.ask(producer, 10)
    pending = await_pending(fleet, 2)
    assert %{running: running, demand: 10} = settle(producer)
    assert map_size(running) == 2
    assert length(Testing.submitted(session)) == 2

    Testing.answer(fleet, "slow", fn _inputs, _variables -> %{answer: "at once"} end)
    for id <- pending, do: Testing.finish(fleet, %Handle{id: id, session: session}, %{answer: "at last"})
    for _result <- 1..10, do: assert_receive({:dspex_fleet, :predicted, {^producer, _inputs, {:ok, _prediction}}})
    assert length(Testing.submitted(session)) == 10
  end

  test "the last message says that there are no more inputs, after all results", %{session: session} do
    producer = start!(session, questions(1..3))
    ref = Process.monitor(producer)
    Producer.ask(producer, 100)
    for _result <- 1..3, do: assert_receive({:dspex_fleet, :predicted, {^producer, _inputs, {:ok, _prediction}}})
    assert_receive {:dspex_fleet, :exhausted, ^producer}
    assert_receive {:DOWN, ^ref, :process, ^producer, :normal}
  end

  test "inputs have options of their own, and an error is a result", %{session: session} do
    producer = start!(session, [{%{question: 1}, idempotency_key: "k"}, {%{question: 2}, priority: 99}])
    Producer.ask(producer, 2)
    assert_receive {:dspex_fleet, :predicted, {_producer, %{question: 1}, {:ok, %Prediction{id: "k"}}}}
    assert_receive {:dspex_fleet, :predicted, {_producer, %{question: 2}, {:error, %Error{reason: :invalid_option}}}}
  end

  test "it ends with its consumer, and lets go of what the inputs hold", %{session: session} do
    test = self()
    inputs = Stream.resource(fn -> 0 end, &{[%{question: &1}], &1 + 1}, fn _n -> send(test, :closed) end)

    consumer =
      spawn(fn ->
        producer = start!(session, inputs)
        Producer.ask(producer, 1)
        send(test, {:producer, producer})
        receive do: ({:dspex_fleet, :predicted, _result} -> :ok)
      end)

    ref = Process.monitor(consumer)
    assert_receive {:producer, producer}
    producer_ref = Process.monitor(producer)
    assert_receive {:DOWN, ^ref, :process, ^consumer, :normal}
    assert_receive {:DOWN, ^producer_ref, :process, ^producer, :normal}
    assert_receive :closed
  end

  test "options that can't be are an error before anything is started", %{session: session} do
    assert {:error, %Error{reason: :invalid_option}} = Producer.start_link(session: session, program: "qa")

    assert {:error, %Error{reason: :invalid_option}} =
             Producer.start_link(session: session, program: "qa", inputs: [], max_in_flight: 0)
  end
end
