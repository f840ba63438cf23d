defmodule DSPexFleet.Gateway.PredictionsTest do
  use DSPexFleet.GatewayCase, async: true

  setup do
    {:ok, ctx: context!()}
  end

  test "a publish is seen by the prediction that asks for its token", %{ctx: ctx} do
    question = fresh("question")

    assert {:ok, prediction} =
             (with {:ok, token} <- Variables.publish(ctx, warmth: 0.25) do
                DSPexFleet.predict(ctx, program(), %{question: question}, at_least: token)
              end)

    assert %Prediction{state: :succeeded} = prediction
    assert prediction.outputs["answer"] == "answer of #{question}"
    assert prediction.provenance.session == Session.id!(ctx)
    assert prediction.provenance.token == Variables.snapshot!(ctx).token
    assert prediction.provenance.program == "asked"
    assert prediction.provenance.record["token"] == to_string(prediction.provenance.token)
  end

  test "bang functions chain", %{ctx: ctx} do
    question = fresh("question")

    prediction =
      ctx
      |> Variables.publish!(warmth: 0.5)
      |> then(&DSPexFleet.predict!(ctx, program(), [question: question], at_least: &1))

    assert prediction.outputs["answer"] == "answer of #{question}"
  end

  test "what was submitted can be awaited and looked up by any process, more than once", %{ctx: ctx} do
    token = Variables.publish!(ctx, warmth: 0.5)
    handle = DSPexFleet.submit!(ctx, program(), %{question: fresh("question")}, exactly: token)
    elsewhere = Task.async(fn -> DSPexFleet.await(handle) end)
    assert {:ok, %Prediction{state: :succeeded} = prediction} = DSPexFleet.await(handle)
    assert Task.await(elsewhere, 60_000) == {:ok, prediction}
    assert DSPexFleet.status!(handle).state == :succeeded
    assert DSPexFleet.cancel!(handle).state == :succeeded
  end

  test "a stream ends with the prediction", %{ctx: ctx} do
    token = Variables.publish!(ctx, warmth: 0.5)
    question = fresh("question")
    handle = DSPexFleet.submit!(ctx, program(), %{question: question}, at_least: token)
    events = handle |> DSPexFleet.stream!() |> Enum.to_list()
    assert {:ended, %Prediction{state: :succeeded} = prediction} = List.last(events)
    assert prediction.outputs["answer"] == "answer of #{question}"
    assert Enum.all?(events, &(elem(&1, 0) in [:state, :piece, :ended]))
    assert Enum.count(events, &match?({:ended, _}, &1)) == 1
  end

  test "an answer that is followed comes in pieces", %{ctx: ctx} do
    question = fresh("question")

    handle =
      DSPexFleet.submit!(ctx, program(), %{question: question},
        at_least: Variables.publish!(ctx, warmth: 0.5),
        stream: true
      )

    events = handle |> DSPexFleet.stream!() |> Enum.to_list()
    assert {:ended, %Prediction{state: :succeeded} = prediction} = List.last(events)
    assert for({:piece, "answer", text} <- events, into: "", do: text) == prediction.outputs["answer"]
  end

  test "many inputs are one request, and a bad one harms only itself", %{ctx: ctx} do
    token = Variables.publish!(ctx, warmth: 0.5)
    questions = for n <- 1..5, do: fresh("question-#{n}")
    inputs = Enum.map(questions, &%{question: &1}) ++ [%{nonsense: 1}]
    assert {:ok, submitted} = DSPexFleet.submit_many(ctx, program(), inputs, at_least: token)
    outcomes = Enum.map(submitted, fn result -> with {:ok, handle} <- result, do: DSPexFleet.await(handle) end)

    assert for({:ok, prediction} <- Enum.take(outcomes, 5), do: prediction.outputs["answer"]) ==
             Enum.map(questions, &"answer of #{&1}")

    assert {:error, %Error{reason: :input}} = List.last(outcomes)
  end

  test "the same idempotency key is the same prediction, and other content under it an error", %{ctx: ctx} do
    Variables.publish!(ctx, warmth: 0.5)
    key = fresh("key")
    one = DSPexFleet.submit!(ctx, program(), %{question: key}, idempotency_key: key)
    assert DSPexFleet.submit!(ctx, program(), %{question: key}, idempotency_key: key).id == one.id

    assert {:error, %Error{reason: :idempotency_conflict}} =
             DSPexFleet.submit(ctx, program(), %{question: "another"}, idempotency_key: key)

    DSPexFleet.await!(one)
  end

  test "a program that isn't there is an error", %{ctx: ctx} do
    Variables.publish!(ctx, warmth: 0.5)
    assert {:error, %Error{reason: :program_not_found}} = DSPexFleet.predict(ctx, "nobody's", %{question: "?"})
  end

  test "a token that never comes fails the prediction with the reason", %{ctx: ctx} do
    token = Variables.publish!(ctx, warmth: 0.5)
    lost = %{token | epoch: token.epoch - 1, revision: token.revision + 1_000}

    assert {:error, %Error{reason: :revision_lost}} =
             DSPexFleet.predict(ctx, program(), %{question: "?"}, exactly: lost)
  end

  test "await gives up at its own time, and cancel ends what goes on", %{ctx: ctx} do
    token = Variables.publish!(ctx, warmth: 0.5)
    future = %{token | revision: token.revision + 1_000}
    handle = DSPexFleet.submit!(ctx, program(), %{question: fresh("never")}, at_least: future)

    assert {:error, %Error{reason: :prediction_timeout} = error} = DSPexFleet.await(handle, 10)
    assert error.fields == [handle.id]
    assert DSPexFleet.cancel!(handle).state == :cancelled
    assert {:error, %Error{reason: :prediction_cancelled}} = DSPexFleet.await(handle)
    assert [{:error, %Error{reason: :prediction_cancelled}}] = handle |> DSPexFleet.stream() |> Enum.to_list()
  end

  test "a producer hands over every prediction that is asked for, and those of before again", %{ctx: ctx} do
    Variables.publish!(ctx, warmth: 0.5)
    key = fresh("key")
    inputs = for n <- 1..30, do: {%{question: "#{key} #{n}"}, idempotency_key: "#{key}/#{n}"}

    [first, again] =
      for _run <- 1..2 do
        {:ok, producer} = Producer.start_link(session: ctx, program: program(), inputs: inputs, max_in_flight: 8)
        :ok = Producer.ask(producer, 31)

        ids =
          for _result <- 1..30 do
            assert_receive {:dspex_fleet, :predicted, {^producer, %{question: question}, {:ok, prediction}}}, 60_000
            assert prediction.outputs["answer"] == "answer of #{question}"
            prediction.id
          end

        assert_receive {:dspex_fleet, :exhausted, ^producer}
        Enum.sort(ids)
      end

    assert first == again
  end

  test "costs are reported", %{ctx: ctx} do
    Variables.publish!(ctx, warmth: 0.5)
    handle = DSPexFleet.submit!(ctx, program(), %{question: fresh("cost")})
    assert {:ok, _prediction} = DSPexFleet.await(handle)
    assert %{by: "program", rows: [_ | _], total: total} = DSPexFleet.Costs.report!(ctx)
    assert total.predictions >= 1
    assert total.usage.calls >= 1
    assert {:error, %Error{}} = DSPexFleet.Costs.report(ctx, by: :team)
  end

  test "a finished prediction is scored, and the last score of a name and scorer counts", %{ctx: ctx} do
    Variables.publish!(ctx, warmth: 0.5)
    handle = DSPexFleet.submit!(ctx, program(), %{question: fresh("scored")})
    assert {:ok, _prediction} = DSPexFleet.await(handle)
    assert {:ok, %{value: 0.25}} = Scores.score(handle, :helpful, 0.25)

    assert %{scorer: "application", at: %DateTime{}} =
             Scores.score!(handle, "helpful", 1, comment: "on second thoughts")

    Scores.score!(handle, :correct, true, scorer: "jo")
    Scores.score!(handle, :tone, "friendly")

    assert [
             %{name: "correct", value: true, scorer: "jo"},
             %{name: "helpful", value: 1.0, comment: "on second thoughts"},
             %{name: "tone", value: "friendly"}
           ] = Scores.list!(handle)

    assert {:error, %Error{reason: :score, fields: ["value", _]}} = Scores.score(handle, :helpful, 2)
    elsewhere = %{handle | id: "nobody"}
    assert {:error, %Error{reason: :prediction_not_found}} = Scores.score(elsewhere, :helpful, 1.0)
    assert {:error, %Error{reason: :prediction_not_found}} = Scores.list(elsewhere)
  end

  test "programs are registered, listed and read", %{ctx: ctx} do
    name = fresh("program")
    spec = %{module: "Predict", signature: "question -> answer"}
    assert %{name: ^name, version: 1} = one = Programs.register!(ctx, name, spec, labels: ["prod"])
    assert Programs.register!(ctx, name, spec).version == 1
    assert [%{name: ^name, version: 1, label_versions: %{"prod" => 1}}] = Programs.list!(ctx, prefix: name)
    assert %{content: content, spec: %{"module" => _}} = Programs.get!(ctx, name <> "@prod")
    assert content == one.content
    assert {:error, %Error{}} = Programs.register(ctx, name, %{module: "NoSuchModule", signature: "question -> answer"})
  end

  test "an optimised program is registered with its state, and answers", %{ctx: ctx} do
    signature = %{
      instructions: "Answer like a pirate.",
      fields: [%{prefix: "Question:", description: "${question}"}, %{prefix: "Answer:", description: "${answer}"}]
    }

    state = %{
      traces: [],
      train: [],
      demos: [%{question: "Who?", answer: "Arr!"}],
      signature: signature,
      lm: %{model: "x"}
    }

    spec = %{module: "Predict", signature: "question -> answer"}
    name = fresh("pirate")
    Programs.register!(ctx, name, spec, state: state)
    assert %{"state" => %{"self" => %{"demos" => [%{"answer" => "Arr!"}], "lm" => nil}}} = Programs.get!(ctx, name).spec
    Variables.set!(ctx, :a, 1)
    assert DSPexFleet.predict!(ctx, name, %{question: "Why?"}).outputs["answer"] == "answer of Why?"

    # As `save` writes it to a file, with the versions beside it.
    saved = %{"predict" => state, "metadata" => %{"dependency_versions" => %{}}}
    thoughtful = %{module: "ChainOfThought", signature: "question -> answer"}

    assert {:error, %Error{reason: :program_spec, message: message}} =
             Programs.register(ctx, name, thoughtful, state: saved)

    assert message =~ "state.predict"
  end
end
