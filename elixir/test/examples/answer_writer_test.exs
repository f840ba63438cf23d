defmodule MyApp.AnswerWriterTest do
  use ExUnit.Case, async: true

  alias DSPexFleet.{Prediction, Testing}
  alias MyApp.AnswerWriter

  test "it is never further ahead than it says, and stores every answer" do
    fleet = start_supervised!(Testing)
    Testing.answer(fleet, "qa", fn %{"question" => n}, _variables -> %{answer: n} end)
    session = Testing.session(fleet)
    test = self()

    store = fn inputs, result ->
      send(test, {:stored, inputs, result, length(Testing.submitted(session))})
    end

    questions = for n <- 1..100, do: %{question: n}

    writer =
      start_supervised!({AnswerWriter, session: session, questions: questions, store: store}, restart: :temporary)

    ref = Process.monitor(writer)

    for stored <- 1..100 do
      assert_receive {:stored, %{question: n}, {:ok, %Prediction{outputs: %{"answer" => n}}}, submitted}
      assert submitted < stored + 20
    end

    assert_receive {:DOWN, ^ref, :process, ^writer, :normal}
  end
end
