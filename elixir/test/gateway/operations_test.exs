defmodule DSPexFleet.Gateway.OperationsTest do
  use DSPexFleet.GatewayCase, async: true

  alias DSPexFleet.{DeadLetters, Judges, Predictions, Status}

  @spec_of_qa %{module: "Predict", signature: "question -> answer"}

  setup do
    ctx = context!()
    Variables.set!(ctx, :warmth, 0.5)
    {:ok, ctx: ctx}
  end

  test "a prediction is replayed under its own token", %{ctx: ctx} do
    question = fresh("question")
    handle = DSPexFleet.submit!(ctx, program(), %{question: question}, trace: true)
    assert %Prediction{trace: [_step | _more]} = first = DSPexFleet.await!(handle)
    Variables.set!(ctx, :warmth, 0.9)

    assert %{inputs: %{"question" => ^question}, differences: []} = replayed = DSPexFleet.replay!(handle)
    assert replayed.first.id == first.id
    assert replayed.again.id != first.id
    assert replayed.again.provenance.token == first.provenance.token
    assert {:error, %Error{reason: :invalid_option}} = DSPexFleet.replay(handle, await: 0)
  end

  test "the LM calls of a prediction have what was asked and answered", %{ctx: ctx} do
    question = fresh("question")
    prediction = DSPexFleet.predict!(ctx, program(), %{question: question})
    assert %{captured: true, calls: [call], omitted: 0} = Predictions.lm_calls!(ctx, prediction.id)
    assert JSON.encode!(call.messages) =~ question
    assert %{"role" => "assistant", "parts" => [%{"content" => content} | _more]} = call.answer
    assert content =~ question
    assert %{requests: 1, started_at: %DateTime{}, error: nil, cut: false, cost_usd: <<_some::binary>>} = call
    assert {:error, %Error{reason: :prediction_not_found}} = Predictions.lm_calls(ctx, fresh("id"))
  end

  test "a program has versions, and labels that move", %{ctx: ctx} do
    name = fresh("qa")
    Programs.register!(ctx, name, @spec_of_qa, labels: [:prod])
    Programs.register!(ctx, name, Map.put(@spec_of_qa, :module, "ChainOfThought"))
    assert [%{version: 2, lineage: nil}, %{version: 1}] = Programs.versions!(ctx, name)
    assert %{version: 2} = Programs.set_label!(ctx, name, :prod, 2, reason: "it thinks")
    assert Programs.get!(ctx, name <> "@prod").version == 2
    assert {:error, %Error{reason: :invalid_value}} = Programs.set_label(ctx, name, :prod, "2")
  end

  test "a judge is added, listed and removed", %{ctx: ctx} do
    {judged, judge} = {fresh("qa"), fresh("judge")}
    Programs.register!(ctx, judged, @spec_of_qa)
    Programs.register!(ctx, judge, %{module: "Predict", signature: "question, answer -> score: float"})
    inputs = %{question: "inputs.question", answer: "outputs.answer"}
    assert %{share: 0.05, output: "score"} = Judges.add!(ctx, judged, :helpful, judge, inputs: inputs, share: 0.05)
    {reports, _invalid} = Judges.list!(ctx)

    assert [%{judged: 0, judge: %{name: "helpful", program: ^judge}}] =
             Enum.filter(reports, &(&1.judge.judged == judged))

    assert Judges.remove(ctx, judged, :helpful) == :ok
    {reports, _invalid} = Judges.list!(ctx)
    refute Enum.any?(reports, &(&1.judge.judged == judged))
    assert {:error, %Error{reason: :invalid_option}} = Judges.add(ctx, judged, :helpful, judge, share: 2)
  end

  test "the dead letters are listed, and one that isn't there is not found", %{ctx: ctx} do
    assert {letters, count} = DeadLetters.list!(ctx, limit: 5)
    assert length(letters) <= count

    for call <- [&DeadLetters.get/2, &DeadLetters.retry/2, &DeadLetters.drop/2] do
      assert {:error, %Error{reason: :dead_message_not_found}} = call.(ctx, "1-1")
    end
  end

  test "the status has the worker processes, the queues, and what has ended", %{ctx: ctx} do
    DSPexFleet.predict!(ctx, program(), %{question: fresh("question")})
    # Worker processes report themselves every few seconds.
    assert eventually(fn -> Enum.any?(Status.get!(ctx).ended, &(&1.succeeded > 0 and &1.p95_s >= &1.p50_s)) end, 1_200)
    status = Status.get!(ctx, since_s: 600)
    assert %{at: %DateTime{}, dead: dead, lagging: lagging, parked_by_profile: %{}} = status
    assert dead >= 0
    assert is_list(lagging)

    assert [%{pool: _, concurrency: _, queues: [_ | _], started_at: %DateTime{}, reported_at: %DateTime{}} | _others] =
             status.processes

    assert [%{queue: _, priorities: _, waiting: _} | _others] = status.queues
    assert length(status.ended) == 11
    assert {:error, %Error{reason: :malformed, fields: ["since_s" | _why]}} = Status.get(ctx, since_s: 86_401)
  end
end
