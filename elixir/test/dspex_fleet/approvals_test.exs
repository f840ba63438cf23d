defmodule DSPexFleet.ApprovalsTest do
  use ExUnit.Case, async: true

  alias DSPexFleet.{Approvals, Audit, Error, Protections, Testing}

  @request %{
    "id" => "r1",
    "operation" => "publish",
    "target" => "session:shop",
    "expected" => "1.1",
    "author" => "ann",
    "reason" => "",
    "rule" => "session:shop",
    "needed" => 2,
    "approvers" => [],
    "source" => "gateway",
    "digest" => "00",
    "created_at" => "2026-01-02T03:04:05Z",
    "expires_at" => "2026-01-03T03:04:05Z"
  }

  setup do
    fleet = start_supervised!(Testing)
    {:ok, fleet: fleet, session: Testing.session(fleet)}
  end

  # Answers an operation, and sends its requests to the test.
  defp answer(fleet, operation, response) do
    test = self()

    Testing.stub(fleet, operation, fn request ->
      send(test, {operation, request})
      {:ok, response}
    end)
  end

  test "a request has its arguments, which lists leave out", %{fleet: fleet, session: session} do
    answer(fleet, "Approvals.List", %{"requests" => [@request]})
    answer(fleet, "Approvals.Get", Map.put(@request, "arguments", %{"changes" => %{"price" => 2}}))
    assert [%{id: "r1", arguments: nil, created_at: ~U[2026-01-02 03:04:05Z]}] = Approvals.list!(session)
    assert %{arguments: %{"changes" => %{"price" => 2}}, expires_at: %DateTime{}} = Approvals.get!(session, "r1")
    assert_received {"Approvals.Get", %{"id" => "r1"}}
  end

  test "an approval is applied or waits for others", %{fleet: fleet, session: session} do
    answer(fleet, "Approvals.Approve", %{"request" => @request, "applied" => false, "result" => ""})
    assert {%{needed: 2}, :waiting} = Approvals.approve!(session, "r1", author: "ben")
    assert_received {"Approvals.Approve", %{"id" => "r1", "author" => "ben"}}
    answer(fleet, "Approvals.Approve", %{"request" => @request, "applied" => true, "result" => "1.2"})
    assert {%{id: "r1"}, {:applied, "1.2"}} = Approvals.approve!(session, "r1")
    answer(fleet, "Approvals.Reject", @request)
    assert %{id: "r1"} = Approvals.reject!(session, "r1", reason: "no")
    assert_received {"Approvals.Reject", %{"id" => "r1", "reason" => "no", "author" => ""}}
  end

  test "a rule is of sessions or labels by a pattern", %{fleet: fleet, session: session} do
    rule = %{"kind" => "label", "pattern" => "st*", "approvals" => 2, "author" => "ann", "at" => "2026-01-02T03:04:05Z"}
    answer(fleet, "Protections.Protect", rule)
    answer(fleet, "Protections.Unprotect", %{})

    assert %{kind: "label", pattern: "st*", at: %DateTime{}} =
             Protections.protect!(session, :label, "st*", approvals: 2)

    assert_received {"Protections.Protect", %{"kind" => "label", "pattern" => "st*", "approvals" => 2, "author" => ""}}

    assert Protections.unprotect(session, :label, "st*", author: "ann") == :ok
    assert_received {"Protections.Unprotect", %{"kind" => "label", "pattern" => "st*", "author" => "ann"}}
  end

  test "what can't be is refused before anything is sent", %{session: session} do
    for call <- [
          fn -> Audit.list(session, outcome: "maybe") end,
          fn -> Audit.list(session, limit: 1_001) end,
          fn -> Audit.list(session, since_s: -1) end,
          fn -> Protections.protect(session, :label, "stable", approvals: 0) end,
          fn -> Approvals.reject(session, "r1", reason: nil) end
        ],
        do: assert({:error, %Error{reason: :invalid_option}} = call.())

    for call <- [
          fn -> Protections.protect(session, nil, "stable") end,
          fn -> Protections.unprotect(session, :label, :stable) end,
          fn -> Approvals.get(session, 1) end,
          fn -> Approvals.approve(session, "") end
        ],
        do: assert({:error, %Error{reason: :invalid_value}} = call.())
  end
end
