defmodule MyApp.PredictionPipelineTest do
  # The example has a name.
  use ExUnit.Case, async: false

  alias DSPexFleet.Testing
  alias MyApp.PredictionPipeline

  setup do
    fleet = start_supervised!(Testing)
    Testing.answer(fleet, "qa", fn inputs, _variables -> %{answer: "answer of #{inputs["question"]}"} end)
    {:ok, fleet: fleet, session: Testing.session(fleet)}
  end

  defp await_submitted(session, count) do
    if length(Testing.submitted(session)) < count do
      Process.sleep(5)
      await_submitted(session, count)
    end
  end

  # Waits until a process ends.
  defp await_end(pid) do
    ref = Process.monitor(pid)
    receive do: ({:DOWN, ^ref, :process, ^pid, _reason} -> :ok)
  end

  test "it makes what its processors have demand for, and stores every answer", %{session: session} do
    test = self()
    gate = spawn(fn -> receive do: (:open -> :ok) end)

    store = fn inputs, outputs ->
      send(test, {:storing, self()})
      await_end(gate)
      send(test, {:stored, inputs, outputs})
    end

    questions = for n <- 1..100, do: %{question: n}
    start_supervised!({PredictionPipeline, session: session, questions: questions, store: store})

    # Two processors that stand still have demand for ten messages each, and no more are made.
    for _processor <- 1..2, do: assert_receive({:storing, _processor})
    await_submitted(session, 20)
    refute_receive {:storing, _processor}
    assert length(Testing.submitted(session)) == 20

    send(gate, :open)

    for n <- 1..100 do
      answer = "answer of #{n}"
      assert_receive {:stored, %{question: ^n}, %{"answer" => ^answer}}
    end
  end

  test "a prediction that failed is a failed message, and the others go on", %{fleet: fleet, session: session} do
    test = self()

    Testing.answer(fleet, "qa", fn
      %{"question" => 1}, _variables -> {:error, :lm_refused}
      %{"question" => n}, _variables -> %{answer: n}
    end)

    ref = make_ref()
    handler = {__MODULE__, ref}
    :telemetry.attach(handler, [:broadway, :processor, :stop], &__MODULE__.report/4, {test, ref})
    on_exit(fn -> :telemetry.detach(handler) end)
    questions = for n <- 1..2, do: %{question: n}
    store = fn inputs, _outputs -> send(test, {:stored, inputs}) end
    start_supervised!({PredictionPipeline, session: session, questions: questions, store: store})
    assert_receive {:stored, %{question: 2}}
    assert_receive {^ref, [%Broadway.Message{status: {:failed, %DSPexFleet.Error{reason: :lm_refused}}}]}
  end

  def report(_event, _measurements, %{failed_messages: []}, _to), do: :ok
  def report(_event, _measurements, %{failed_messages: failed}, {test, ref}), do: send(test, {ref, failed})
end
