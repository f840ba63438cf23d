defmodule DSPexFleet.ValuesTest do
  use ExUnit.Case, async: true

  alias DSPexFleet.{Error, Values}

  defp round_trip(value, type) do
    {:ok, encoded} = Values.encode(value, type)
    encoded |> JSON.encode!() |> JSON.decode!() |> Values.decode(type)
  end

  defp json(value, type \\ nil) do
    with {:ok, encoded} <- Values.encode(value, type), do: JSON.encode!(encoded)
  end

  test "every type comes back as it went" do
    for {type, value} <- [
          float: 0.1,
          float: 5.0e-324,
          float: 1.7976931348623157e308,
          float: :nan,
          float: :infinity,
          float: :neg_infinity,
          integer: Integer.pow(10, 30),
          integer: -Integer.pow(2, 64),
          string: "grün \u0000 \"quoted\" 🌲",
          boolean: false,
          choice: "b",
          module: "ChainOfThought",
          embedding: [0.25, -1.0, :nan],
          tensor: %{shape: [2, 2], data: [1.0, 2.0, :infinity, 4.0]}
        ] do
      assert round_trip(value, type) === value
    end
  end

  test "1 and 1.0 stay apart" do
    assert {json(1), json(1.0)} == {"1", "1.0"}
    assert round_trip(1.0, :float) === 1.0
    assert round_trip(1, :integer) === 1
  end

  test "an atom is its name where the type is text, and only there a number that JSON lacks" do
    assert json(:nan, :string) == ~s("nan")
    assert json(:nan, :float) == ~s("NaN")
    assert Values.decode("NaN", :string) == "NaN"
    assert Values.decode("NaN", :float) == :nan
  end

  test "what JSON has no form for is an error and no crash" do
    for value <- [{1, 2}, self(), <<255>>, [1 | 2], %{{1} => 2}, make_ref()] do
      assert {:error, %Error{reason: :invalid_value}} = Values.encode(value)
    end
  end

  test "a module's alias is no text, wherever it is" do
    for {value, type} <- [{DSPexFleet.ReAct, :module}, {ReAct, nil}, {[ReAct], nil}, {%{tool: ReAct}, nil}] do
      assert {:error, %Error{reason: :invalid_value, message: message}} = Values.encode(value, type)
      assert message =~ "ReAct"
    end
  end

  test "nil is no value of a variable, and null among inputs" do
    assert {:error, %Error{reason: :invalid_value}} = Values.encode(nil, :string)
    assert {:error, %Error{reason: :invalid_value}} = Values.encode(nil, :float)
    assert json(%{a: nil}) == ~s({"a":null})
  end

  test "an object is a map or a keyword list" do
    assert {:ok, _encoded} = Values.encode_object([a: 1], "inputs")

    for other <- ["text", [1], nil, 7, [{"a", 1}], ~D[2026-01-01]] do
      assert {:error, %Error{reason: :invalid_value, message: message}} = Values.encode_object(other, "inputs")
      assert message =~ "inputs"
    end
  end
end
