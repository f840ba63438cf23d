defmodule DSPexFleet.ErrorTest do
  use ExUnit.Case, async: true

  alias Dspex.Fleet.V1
  alias DSPexFleet.Error

  defp rpc(status, message, details \\ nil), do: %GRPC.RPCError{status: status, message: message, details: details}

  test "the details of a status name the class and its fields" do
    wire = %V1.Error{kind: "ValidationError", message: "no", fields_json: ~s(["llm_temperature","3.0","it is too hot"])}
    any = %Google.Protobuf.Any{type_url: "type.googleapis.com/dspex.fleet.v1.Error", value: V1.Error.encode(wire)}

    assert Error.from_rpc(rpc(3, "no", [any])) == %Error{
             reason: :validation,
             kind: "ValidationError",
             message: "no",
             fields: ["llm_temperature", "3.0", "it is too hot"],
             status: :invalid_argument
           }
  end

  test "a status alone is an error too" do
    assert %Error{reason: :unauthenticated, kind: nil, message: "who?", status: :unauthenticated} =
             Error.from_rpc(rpc(16, "who?"))

    assert %Error{reason: :gateway_unavailable, status: :unavailable} = Error.from_rpc(rpc(14, nil))
    assert %Error{reason: :unknown, status: :unknown} = Error.from_rpc(rpc(99, "odd"))
  end

  test "each class has a reason of its own, and an unknown class keeps its name" do
    reasons = %{"LMRefusedError" => :lm_refused, "OwnLMError" => :own_lm, "StaleTokenError" => :stale_token}
    for {kind, reason} <- reasons, do: assert(%Error{reason: ^reason} = Error.from_wire(%V1.Error{kind: kind}))

    assert %Error{reason: :unknown, kind: "FutureError"} = error = Error.from_wire(%V1.Error{kind: "FutureError"})
    assert Exception.message(error) == "FutureError: "
  end

  test "unwrap! gives the value or raises the error with its reason" do
    assert Error.unwrap!({:ok, 1}) == 1

    assert_raise Error, "context_down: it exited", fn ->
      Error.unwrap!({:error, Error.new(:context_down, "it exited")})
    end
  end
end
