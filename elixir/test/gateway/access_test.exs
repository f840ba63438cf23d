defmodule DSPexFleet.Gateway.AccessTest do
  use DSPexFleet.GatewayCase, async: true

  # Needs a gateway that asks for tokens: DSPEX_FLEET_TOKEN is one with all scopes, DSPEX_FLEET_READER reads "elixir*".
  @moduletag :tokens

  test "a forged token is refused, and without any too" do
    assert {:error, %Error{reason: :unauthenticated, status: :unauthenticated}} =
             Variables.set(context!(token: "forged"), :a, 1)

    assert {:error, %Error{status: :unauthenticated}} = Variables.set(context!(token: nil), :a, 1)
  end

  test "a token that may not publish reads all the same" do
    ctx = context!()
    token = Variables.set!(ctx, :a, 1)
    reader = context!(session: Session.id!(ctx), token: System.fetch_env!("DSPEX_FLEET_READER"))
    assert Variables.get(reader, :a, at_least: token) == {:ok, 1}
    assert {:error, %Error{reason: :not_granted, status: :permission_denied}} = Variables.set(reader, :a, 2)
    assert {:error, %Error{status: :permission_denied}} = DSPexFleet.predict(reader, program(), %{question: "?"})
  end

  test "what is about all sessions needs a token for all" do
    reader = context!(token: System.fetch_env!("DSPEX_FLEET_READER"))
    assert {:error, %Error{reason: :not_granted, status: :permission_denied}} = DSPexFleet.Status.get(reader)
  end

  test "a token function is asked at each call" do
    good = System.fetch_env!("DSPEX_FLEET_TOKEN")
    agent = start_supervised!({Agent, fn -> "forged" end})
    ctx = context!(token: fn -> Agent.get(agent, & &1) end)
    assert {:error, %Error{status: :unauthenticated}} = Variables.set(ctx, :a, 1)
    Agent.update(agent, fn _forged -> good end)
    assert {:ok, _token} = Variables.set(ctx, :a, 1)
  end

  test "a request above the gateway's limit is refused, and the connection goes on" do
    ctx = context!()
    assert {:error, %Error{status: :resource_exhausted}} = Variables.set(ctx, :big, String.duplicate("x", 5_000_000))
    assert {:ok, _token} = Variables.set(ctx, :a, 1)
  end
end
