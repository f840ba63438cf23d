defmodule DSPexFleet.Gateway.ApprovalsTest do
  use DSPexFleet.GatewayCase, async: true

  alias DSPexFleet.{Approvals, Audit, Protections, Sessions}

  # Needs a gateway that asks for tokens: DSPEX_FLEET_APPROVER is one that reads and approves.
  @moduletag :approvals

  setup do
    ctx = context!()
    approver = context!(token: System.fetch_env!("DSPEX_FLEET_APPROVER"))
    {:ok, ctx: ctx, id: Session.id!(ctx), approver: approver}
  end

  test "a change of a protected session waits for another token's approval", %{ctx: ctx, id: id, approver: approver} do
    before = Variables.set!(ctx, :price, 1)
    rule = Protections.protect!(ctx, :session, id, author: "ann")
    assert %{kind: "session", pattern: ^id, approvals: 1, author: author, at: %DateTime{}} = rule
    assert author =~ "ann"
    assert rule in Protections.list!(approver)

    assert {:error, %Error{reason: :approval_required, fields: [request | _rule]}} =
             Variables.set(ctx, :price, 2, reason: "a sale")

    assert Variables.get!(ctx, :price) == 1
    assert %{id: ^request, arguments: nil} = approver |> Approvals.list!() |> Enum.find(&(&1.id == request))

    assert %{operation: "publish", reason: "a sale", needed: 1, approvers: [], created_at: %DateTime{}} =
             shown = Approvals.get!(ctx, request)

    assert {shown.target, shown.rule, shown.expected} == {"session:" <> id, "session:" <> id, to_string(before)}
    assert inspect(shown.arguments) =~ "price"
    assert DateTime.after?(shown.expires_at, shown.created_at)

    assert {:error, %Error{reason: :approval}} = Approvals.approve(ctx, request, author: "ben")

    assert {%{id: ^request, approvers: [_ben]}, {:applied, token}} =
             Approvals.approve!(approver, request, author: "ben")

    assert Variables.get!(ctx, :price, at_least: token) == 2
    assert {:error, %Error{reason: :approval_not_found}} = Approvals.approve(approver, request)
    assert {:error, %Error{reason: :approval_not_found}} = Approvals.get(ctx, request)

    assert [%{outcome: "requested", approval: ^request, approvers: []}] =
             Audit.list!(ctx, of_session: id, action: "publish", outcome: "requested")

    assert [%{after: ^token, approval: ^request, approvers: [_approver]} | _first] =
             Audit.list!(ctx, of_session: id, action: "publish", outcome: "done")
  end

  test "a rule is removed as what it protects is changed: with approval", %{ctx: ctx, id: id, approver: approver} do
    Protections.protect!(ctx, :session, id)

    assert {:error, %Error{reason: :approval_required, fields: [first | _rule]}} =
             Protections.unprotect(ctx, :session, id)

    assert %{id: ^first, operation: "unprotect"} = Approvals.reject!(approver, first, reason: "not now")
    assert {:error, %Error{reason: :approval_not_found}} = Approvals.reject(approver, first)
    assert Enum.any?(Protections.list!(ctx), &(&1.pattern == id))

    assert {:error, %Error{reason: :approval_required, fields: [second | _rule]}} =
             Protections.unprotect(ctx, :session, id)

    assert {_request, {:applied, _result}} = Approvals.approve!(approver, second)
    refute Enum.any?(Protections.list!(ctx), &(&1.pattern == id))
    assert {:ok, _token} = Variables.set(ctx, :price, 3)
  end

  test "a label whose rule needs two approvals waits after the first", %{ctx: ctx, approver: approver} do
    label = fresh("stable")
    Variables.set!(ctx, :price, 1)
    assert %{kind: "label", approvals: 2} = Protections.protect!(ctx, :label, label, approvals: 2)
    assert {:error, %Error{reason: :approval_required, fields: [request | _rule]}} = Sessions.set_label(ctx, label)
    assert {%{needed: 2, approvers: [_approver]}, :waiting} = Approvals.approve!(approver, request)
    assert {:error, %Error{reason: :approval}} = Approvals.approve(approver, request)
    assert Sessions.labels!(ctx) == []
    assert %{id: ^request} = Approvals.reject!(ctx, request)
  end

  test "rules are an administrator's, and approving takes its scope", %{ctx: ctx, id: id, approver: approver} do
    assert {:error, %Error{reason: :not_granted}} = Protections.protect(approver, :session, id)
    assert {:error, %Error{reason: :protection}} = Protections.protect(ctx, :program, id)
    reader = context!(token: System.fetch_env!("DSPEX_FLEET_READER"))

    for call <- [&Protections.list/1, &Approvals.list/1, &Approvals.approve(&1, "x"), &Audit.list/1],
        do: assert({:error, %Error{reason: :not_granted, status: :permission_denied}} = call.(reader))
  end
end
