defmodule DSPexFleet.ErrorTest do
  use ExUnit.Case, async: true

  alias DSPexFleet.Error
  alias DSPexFleet.Error.Reasons

  test "a response names the class, its fields and the status" do
    wire = %{
      "kind" => "ValidationError",
      "message" => "no",
      "fields" => ["llm_temperature", "3.0", "it is too hot"],
      "status" => "INVALID_ARGUMENT"
    }

    assert Error.from_response(wire, 400) == %Error{
             reason: :validation,
             kind: "ValidationError",
             message: "no",
             fields: ["llm_temperature", "3.0", "it is too hot"],
             status: :invalid_argument
           }
  end

  test "the answer of something in front of a gateway is an error too" do
    assert %Error{reason: :gateway_unavailable, status: :unavailable} = Error.from_response(%{}, 502)

    assert %Error{reason: :unauthenticated, kind: nil, message: "who?"} =
             Error.from_response(%{"message" => "who?"}, 401)

    assert %Error{reason: :unknown, status: nil} = Error.from_response(%{}, 302)
  end

  test "an operation that an older gateway lacks is unimplemented" do
    wire = %{"kind" => "NotFound", "message" => "Not Found. See /openapi.json.", "fields" => []}
    assert %Error{reason: :unimplemented, status: :unimplemented} = Error.from_response(wire, 404)
  end

  test "each class has a reason of its own, and an unknown class keeps its name" do
    reasons = %{"LMRefusedError" => :lm_refused, "OwnLMError" => :own_lm, "StaleTokenError" => :stale_token}
    for {kind, reason} <- reasons, do: assert(%Error{reason: ^reason} = Error.from_response(%{"kind" => kind}))
    assert Reasons.by_kind() |> Map.values() |> Enum.uniq() |> length() == map_size(Reasons.by_kind())

    future = %{"kind" => "FutureError", "status" => "ABORTED"}
    assert %Error{reason: :unknown, kind: "FutureError", status: :aborted} = error = Error.from_response(future, 409)
    assert Exception.message(error) == "FutureError: the gateway gave no reason"
  end

  test "the documentation lists each reason" do
    {:docs_v1, _, _, _, %{"en" => text}, _, _} = Code.fetch_docs(Error)
    for {kind, reason} <- Reasons.by_kind(), do: assert(text =~ "| `#{inspect(reason)}` | `#{kind}` |")
  end

  test "unwrap! gives the value or raises the error with its reason" do
    assert Error.unwrap!({:ok, 1}) == 1

    assert_raise Error, "context_down: it exited", fn ->
      Error.unwrap!({:error, Error.new(:context_down, "it exited")})
    end
  end
end
