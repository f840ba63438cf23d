defmodule DSPexFleet.ErrorTest do
  use ExUnit.Case, async: true

  alias Dspex.Fleet.V1
  alias DSPexFleet.Error

  defp rpc(status, message, details \\ nil), do: %GRPC.RPCError{status: status, message: message, details: details}

  test "the details of a status name the class and its fields" do
    wire = %V1.Error{kind: "ValidationError", message: "no", fields_json: ~s(["llm_temperature","3.0","it is too hot"])}
    any = %Google.Protobuf.Any{type_url: "type.googleapis.com/dspex.fleet.v1.Error", value: V1.Error.encode(wire)}

    assert Error.from_rpc(rpc(3, "no", [any])) == %Error{
             kind: "ValidationError",
             message: "no",
             fields: ["llm_temperature", "3.0", "it is too hot"],
             status: :invalid_argument
           }
  end

  test "a status alone is an error too" do
    assert %Error{kind: "Unauthenticated", message: "who?", status: :unauthenticated} = Error.from_rpc(rpc(16, "who?"))
    assert %Error{kind: "GatewayUnavailable", status: :unavailable} = Error.from_rpc(rpc(14, nil))
    assert %Error{status: :unknown} = Error.from_rpc(rpc(99, "odd"))
  end

  test "unwrap! gives the value or raises the error with its kind" do
    assert Error.unwrap!({:ok, 1}) == 1
    assert_raise Error, "Gone: it went", fn -> Error.unwrap!({:error, Error.new("Gone", "it went")}) end
  end
end
