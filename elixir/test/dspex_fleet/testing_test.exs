defmodule DSPexFleet.TestingTest do
  use ExUnit.Case, async: true

  alias DSPexFleet.{Costs, Error, Prediction, Programs, Replica, Session, Snapshot, Testing, Variables}

  setup do
    fleet = start_supervised!(Testing)
    Testing.answer(fleet, "qa", fn inputs, variables -> %{answer: "#{inputs["question"]} at #{variables["t"]}"} end)
    {:ok, fleet: fleet, session: Testing.session(fleet)}
  end

  test "variables are published, read, watched and rolled back", %{session: session} do
    first = Variables.publish!(session, [{:t, 0.5, type: :float}, {:name, "x"}], expected: :absent)
    assert {:error, %Error{reason: :stale_token}} = Variables.set(session, :t, 1, expected: :absent)
    assert Variables.get!(session, :t, at_least: first) == 0.5
    DSPexFleet.subscribe(session)
    assert_receive {:dspex_fleet, :snapshot, %Snapshot{token: ^first}}

    second = Variables.set!(session, :t, :nan)
    assert_receive {:dspex_fleet, :snapshot, %Snapshot{token: ^second}}
    assert Replica.get!(session, :t, at_least: second) == :nan
    Variables.delete!(session, :name)
    assert {:error, %Error{reason: :variable_not_found}} = Variables.get(session, :name)
    assert Variables.rollback!(session, first) |> to_string() =~ ".4"
    assert [%{changes: %{"name" => {nil, %{value: "x"}}}} | _older] = Variables.history!(session)

    next = %{second | revision: 5}
    reading = Task.async(fn -> Variables.get(session, :t, at_least: next, wait: 5_000) end)
    Variables.set!(session, :t, 7)
    assert Task.await(reading) == {:ok, 7}
    assert {:error, %Error{reason: :revision_not_reached}} = Variables.get(session, :t, at_least: "1000000.9", wait: 10)
  end

  test "predictions are answered under the session's variables", %{session: session} do
    token = Variables.set!(session, :t, 0.2)
    assert {:ok, %Prediction{state: :succeeded} = prediction} = DSPexFleet.predict(session, "qa@prod", question: "Why?")
    assert prediction.outputs == %{"answer" => "Why? at 0.2"}
    assert prediction.provenance.token == token

    assert {:ok, [{:ok, handle}]} = DSPexFleet.submit_many(session, "qa", [%{question: "A"}])

    assert [{:state, :running}, {:piece, "answer", text}, {:ended, _}] =
             handle |> DSPexFleet.stream!() |> Enum.to_list()

    assert text == "A at 0.2"
    assert DSPexFleet.status!(handle).state == :succeeded
    results = session |> DSPexFleet.async_stream("qa", for(n <- 1..5, do: %{question: n})) |> Enum.to_list()
    assert Enum.map(results, fn {:ok, one} -> one.outputs["answer"] end) == for(n <- 1..5, do: "#{n} at 0.2")
    assert {:error, %Error{reason: :program_not_found}} = DSPexFleet.predict(session, "other", %{})
  end

  test "a prediction fails, or goes on until it is finished or cancelled", %{fleet: fleet, session: session} do
    Testing.answer(fleet, "bad", fn _inputs, _variables -> {:error, :lm_refused} end)
    assert {:error, %Error{reason: :lm_refused}} = DSPexFleet.predict(session, "bad", %{})

    Testing.answer(fleet, "slow", fn _inputs, _variables -> :pending end)
    assert {:error, %Error{reason: :prediction_timeout}} = DSPexFleet.predict(session, "slow", %{}, await: 20)
    handle = DSPexFleet.submit!(session, "slow", %{})
    waiting = Task.async(fn -> DSPexFleet.await(handle) end)
    Testing.finish(fleet, handle, %{answer: "at last"})
    assert {:ok, %Prediction{outputs: %{"answer" => "at last"}}} = Task.await(waiting)

    assert {:error, %Error{reason: :prediction_timeout, fields: [id]}} =
             DSPexFleet.predict(session, "slow", %{}, await: 20, cancel_on_timeout: true)

    assert DSPexFleet.status!(%{handle | id: id}).state == :cancelled
    assert [{:error, %Error{reason: :prediction_cancelled}}] = DSPexFleet.await_many([%{handle | id: id}])
  end

  test "a stub stands for any operation, and what has none says so", %{fleet: fleet, session: session} do
    assert {:error, %Error{reason: :unimplemented, message: message}} = Costs.report(session)
    assert message =~ "stub/3"
    Testing.stub(fleet, "Variables.Publish", fn _request -> {:error, :validation} end)
    assert {:error, %Error{reason: :validation}} = Variables.set(session, :t, 1)
    Testing.stub(fleet, "Variables.Publish", fn _request -> :pass end)
    assert {:ok, _token} = Variables.set(session, :t, 1)
    assert %{version: 1} = Programs.register!(session, "qa", %{module: "Predict"})
  end

  test "assertions print what there was", %{fleet: fleet, session: session} do
    Testing.refute_published(session)
    assert_raise ExUnit.AssertionError, ~r/none/, fn -> Testing.assert_submitted(session, "qa") end
    Variables.publish!(session, t: 0.5, other: "x")
    DSPexFleet.predict!(session, "qa", question: "Why?")
    Testing.assert_published(session, t: 0.5)
    Testing.assert_submitted(session, "qa", question: "Why?")
    assert_raise ExUnit.AssertionError, ~r/"other" => "x"/, fn -> Testing.assert_published(session, t: 0.6) end

    assert_raise ExUnit.AssertionError, ~r/Why\?/, fn ->
      Testing.assert_submitted(session, "qa", %{question: "How?"})
    end

    assert_raise ExUnit.AssertionError, fn -> Testing.refute_published(session) end
    Testing.refute_published(Testing.session(fleet))
    assert %Session{id: "own"} = Testing.session(fleet, "own")
  end

  test "telemetry tells of a prediction's life", %{session: session} do
    test = self()
    handler = {__MODULE__, make_ref()}
    events = [[:dspex_fleet, :prediction, :submitted], [:dspex_fleet, :prediction, :ended]]
    :telemetry.attach_many(handler, events, &__MODULE__.forward/4, test)
    on_exit(fn -> :telemetry.detach(handler) end)

    DSPexFleet.predict!(session, "qa", question: "Why?")
    id = session.id
    assert_receive {[_, :prediction, :submitted], %{system_time: _}, %{session: ^id, program: "qa"}}

    assert_receive {[_, :prediction, :ended], measurements,
                    %{session: ^id, state: :succeeded, error: nil, model: "test"}}

    assert %{duration: duration, prompt_tokens: 0, completion_tokens: 0} = measurements
    assert duration > 0
  end

  def forward(event, measurements, metadata, test), do: send(test, {event, measurements, metadata})
end
