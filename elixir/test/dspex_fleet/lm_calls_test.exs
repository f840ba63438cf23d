defmodule DSPexFleet.LMCallsTest do
  use ExUnit.Case, async: true

  alias DSPexFleet.{Error, Predictions, Testing}

  @call %{
    "profile" => "default",
    "model" => "test",
    "started_at" => "2026-01-02T03:04:05Z",
    "duration_s" => 0.5,
    "messages" => [%{"role" => "user", "parts" => [%{"type" => "text", "content" => "Why?"}]}],
    "answer" => %{
      "role" => "assistant",
      "parts" => [%{"type" => "text", "content" => "So."}],
      "finish_reason" => "stop"
    },
    "requests" => 2,
    "input_tokens" => 166,
    "cached_input_tokens" => 4,
    "output_tokens" => 24,
    "reasoning_tokens" => 3,
    "cost_usd" => "0.00004",
    "error" => "",
    "cut" => false
  }

  setup do
    fleet = start_supervised!(Testing)
    {:ok, fleet: fleet, session: Testing.session(fleet)}
  end

  # Answers with these calls, and sends the requests to the test.
  defp answer(fleet, captured, calls, omitted) do
    test = self()

    Testing.stub(fleet, "Predictions.ListLMCalls", fn request ->
      send(test, {:request, request})
      {:ok, %{"captured" => captured, "calls" => calls, "omitted" => omitted}}
    end)
  end

  test "a call has what was asked and answered, its time, and what it used", %{fleet: fleet, session: session} do
    answer(fleet, true, [@call], 7)
    assert %{captured: true, calls: [call], omitted: 7} = Predictions.lm_calls!(session, "p1")
    assert_received {:request, request} when request == %{"id" => "p1"}
    assert [%{"role" => "user", "parts" => [%{"content" => "Why?"}]}] = call.messages
    assert %{"finish_reason" => "stop", "parts" => [%{"content" => "So."}]} = call.answer
    assert %{profile: "default", model: "test", started_at: ~U[2026-01-02 03:04:05Z], duration_s: 0.5} = call
    assert %{requests: 2, input_tokens: 166, cached_input_tokens: 4, output_tokens: 24, reasoning_tokens: 3} = call
    assert {call.cost_usd, call.error, call.cut} == {"0.00004", nil, false}
  end

  test "a call that failed has an error and no answer, and one that was cut no messages", %{
    fleet: fleet,
    session: session
  } do
    failed = @call |> Map.drop(["answer", "cost_usd"]) |> Map.put("error", "LMRefusedError")
    cut = @call |> Map.drop(["answer", "messages"]) |> Map.put("cut", true)
    answer(fleet, true, [failed, cut], 0)
    assert {:ok, %{calls: [failed, cut]}} = Predictions.lm_calls(session, "p1")
    assert %{error: "LMRefusedError", answer: nil, cost_usd: nil, cut: false, messages: [_message]} = failed
    assert %{error: nil, answer: nil, cut: true, messages: []} = cut
  end

  test "calls that weren't captured are none, and an error is returned or raised", %{fleet: fleet, session: session} do
    answer(fleet, false, [], 0)
    assert Predictions.lm_calls(session, "p1") == {:ok, %{captured: false, calls: [], omitted: 0}}
    Testing.stub(fleet, "Predictions.ListLMCalls", fn _request -> {:error, :prediction_not_found} end)
    assert {:error, %Error{reason: :prediction_not_found}} = Predictions.lm_calls(session, "p2")
    assert_raise Error, fn -> Predictions.lm_calls!(session, "p2") end
  end

  test "an id or an option that can't be is refused before anything is sent", %{fleet: fleet, session: session} do
    answer(fleet, true, [@call], 0)

    for id <- [nil, "", :p1, 7],
        do: assert({:error, %Error{reason: :invalid_value}} = Predictions.lm_calls(session, id))

    for options <- [[timeout: 0], [limit: 1], 5_000],
        do: assert({:error, %Error{reason: :invalid_option}} = Predictions.lm_calls(session, "p1", options))

    refute_received {:request, _request}
  end
end
