defmodule DSPexFleet.Gateway.AuditTest do
  use DSPexFleet.GatewayCase, async: true

  alias DSPexFleet.{Audit, Sessions}

  setup do
    ctx = context!()
    {:ok, ctx: ctx, id: Session.id!(ctx)}
  end

  test "an entry says who changed what from where, without its value", %{ctx: ctx, id: id} do
    first = Variables.publish!(ctx, [price: 1, name: "a secret"], author: "ann", reason: "opening")
    second = Variables.set!(ctx, :price, 2)
    assert [later, opening] = Audit.list!(ctx, of_session: id)

    assert %{action: "publish", source: "gateway", outcome: "done", problem: "", reason: "opening"} = opening
    assert {opening.target, opening.after} == {"session:" <> id, to_string(first)}
    assert {Enum.sort(opening.names), opening.changes} == {["name", "price"], 2}
    assert opening.actor =~ "ann"
    assert %DateTime{} = opening.at
    refute inspect(opening) =~ "secret"
    assert {later.before, later.after, later.names} == {to_string(first), to_string(second), ["price"]}
  end

  test "entries are chosen, and read on from a position", %{ctx: ctx, id: id} do
    Variables.set!(ctx, :price, 1, author: "ann")
    Variables.set!(ctx, :price, 2, author: "ben")
    Sessions.set_label!(ctx, :stable)
    assert [%{action: "label"} = newest] = Audit.list!(ctx, of_session: id, limit: 1)
    assert newest.target == "session:#{id}@stable"
    assert [%{action: "publish"}, %{action: "publish"}] = Audit.list!(ctx, of_session: id, before: newest.position)

    assert [_two, _entries] = Audit.list!(ctx, of_session: id, action: "publish", since_s: 3_600)
    assert Audit.list!(ctx, of_session: id, outcome: "refused") == []
    assert Audit.list!(ctx, of_session: fresh("elixir")) == []
    assert Audit.list!(ctx, of_session: id, actor: "nobody") == []
    assert {:error, %Error{reason: :malformed}} = Audit.list(ctx, before: "yesterday")
  end
end
