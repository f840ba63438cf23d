defmodule DSPexFleet.ArgumentsTest do
  use ExUnit.Case, async: true

  alias DSPexFleet.{Call, Connection, Costs, Error, Handle, Programs, Replica, Rollout, Scores, Session, Variables}

  # Nothing listens there: what is refused is refused before anything is sent.
  setup do
    connection = start_supervised!({Connection, target: "127.0.0.1:9"})
    {:ok, session: Session.new("s", connection: connection)}
  end

  defp reason({:error, %Error{reason: reason, message: message}}) do
    assert is_binary(message)
    reason
  end

  test "a session's id is text", %{session: session} do
    for id <- [nil, :s, "", 7, DSPexFleet.Session, <<255>>] do
      assert %{session | id: id} |> Variables.get(:a) |> reason() == :session_name
      assert %{session | id: id} |> DSPexFleet.subscribe() |> reason() == :session_name
    end

    for other <- [nil, true, "s", %{}, 7], do: assert(reason(Variables.get(other, :a)) == :invalid_value)
    assert :nobody |> Variables.get(:a) |> reason() == :context_down
  end

  test "a program is text, and inputs are a map", %{session: session} do
    for program <- [nil, :qa, "", MyApp.QA, 7] do
      assert session |> DSPexFleet.predict(program, %{}) |> reason() == :invalid_value
    end

    for inputs <- [nil, "text", [1], 7, [{"question", "?"}], %{question: self()}, %{question: ReAct}] do
      assert session |> DSPexFleet.submit("qa", inputs) |> reason() == :invalid_value
      assert session |> DSPexFleet.submit_many("qa", [inputs]) |> reason() == :invalid_value
    end

    assert session |> DSPexFleet.submit_many("qa", %{}) |> reason() == :invalid_value
    assert session |> DSPexFleet.async_stream("qa", [nil]) |> Enum.map(&reason/1) == [:invalid_value]
  end

  test "an option that is unknown or can't be is refused by name", %{session: session} do
    for {option, value} <- [
          priority: -1,
          priority: 10,
          priority: nil,
          deadline: 0,
          deadline: "1",
          at_least: "soon",
          at_least: :latest,
          outage: :sometimes,
          outage: {:serve_stale, -1},
          attributes: "pro",
          timeout: 0,
          timeout: nil,
          await: -5,
          cancel_on_timeout: 1,
          stream: nil,
          no_such: 1
        ] do
      assert {:error, %Error{reason: :invalid_option, message: message}} =
               DSPexFleet.predict(session, "qa", %{}, [{option, value}])

      assert message =~ to_string(option)
    end

    assert session |> DSPexFleet.predict("qa", %{}, nil) |> reason() == :invalid_option
    assert session |> DSPexFleet.predict("qa", %{}, at_least: "1.1", exactly: "1.2") |> reason() == :invalid_option
    assert session |> Variables.publish([], expected: :nothing) |> reason() == :invalid_option
    assert session |> Variables.snapshot(names: "a") |> reason() == :invalid_option
    assert session |> Variables.history(limit: 0) |> reason() == :invalid_option
    assert session |> Variables.rollback(nil) |> reason() == :invalid_value
    assert session |> Replica.get(:a, wait: -1) |> reason() == :invalid_option
    assert session |> DSPexFleet.subscribe(names: [nil]) |> reason() == :invalid_option
    assert session |> Costs.report(by: :day) |> reason() == :invalid_option
    assert session |> Rollout.start("s", %{a: 1}, policy: 1) |> reason() == :invalid_option
    assert session |> Rollout.start(nil, %{a: 1}) |> reason() == :invalid_value
    assert session |> Rollout.start("s", 0) |> reason() == :invalid_value
    assert session |> Programs.register("qa", "spec") |> reason() == :invalid_value
    assert session |> Programs.get(:qa) |> reason() == :invalid_value
    assert %Handle{id: "x", session: session} |> Scores.score(nil, 1) |> reason() == :invalid_value
    assert %Handle{id: "x", session: session} |> DSPexFleet.status(-1) |> reason() == :invalid_option
    assert [%Handle{id: "x", session: session}] |> DSPexFleet.await_many(-1) |> Enum.map(&reason/1) == [:invalid_option]
  end

  test "a variable's name is text or an atom, and its value not nil", %{session: session} do
    for name <- [nil, true, MyApp.Temperature, "", 7] do
      assert session |> Variables.set(name, 1) |> reason() == :invalid_value
      assert session |> Variables.get(name) |> reason() == :invalid_value
      assert session |> Replica.get(name) |> reason() == :invalid_value
    end

    assert session |> Variables.set(:a, nil) |> reason() == :invalid_value
    assert session |> Variables.set(:a, ReAct) |> reason() == :invalid_value
    assert session |> Variables.publish([:a]) |> reason() == :invalid_value
    assert session |> Variables.publish("a") |> reason() == :invalid_value
    assert session |> Variables.defvariable(:a, :number, 1) |> reason() == :invalid_option
    assert session |> Variables.delete([nil]) |> reason() == :invalid_option
  end

  test "a constraint that there isn't is refused by name", %{session: session} do
    assert {:error, %Error{reason: :invalid_value, message: message}} =
             Variables.defvariable(session, :a, :float, 0.5, constraints: %{minimum: 0})

    assert message =~ "minimum"
    assert message =~ "min_length"
    assert session |> Variables.defvariable(:a, :float, 0.5, constraints: "none") |> reason() == :invalid_value

    assert session |> Variables.defvariable(:a, :float, 0.5, constraints: %{pattern: ~r/x/}) |> reason() ==
             :invalid_value
  end

  test "the default timeout is documented where it applies" do
    {:docs_v1, _, _, _, _, _, docs} = Code.fetch_docs(DSPexFleet)
    for {{:function, :submit, 4}, _, _, %{"en" => text}, _} <- docs, do: assert(text =~ "#{Call.default_timeout()}")
  end
end
