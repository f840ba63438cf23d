defmodule DSPexFleet.ValuesTest do
  use ExUnit.Case, async: true

  alias DSPexFleet.{Error, Values}

  defp round_trip(value, type) do
    {:ok, json} = Values.encode(value, type)
    {:ok, back} = Values.decode(json, type)
    back
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
    assert Values.encode(1) == {:ok, "1"}
    assert Values.encode(1.0) == {:ok, "1.0"}
    assert Values.decode("1.0") == {:ok, 1.0}
    assert round_trip(1, :integer) === 1
  end

  test "an atom is its name where the type is text, and only there a number that JSON lacks" do
    assert Values.encode(:nan, :string) == {:ok, ~s("nan")}
    assert Values.encode(:nan, :float) == {:ok, ~s("NaN")}
    assert Values.decode(~s("NaN"), :string) == {:ok, "NaN"}
    assert Values.decode(~s("NaN"), :float) == {:ok, :nan}
  end

  test "what JSON has no form for is an error and no crash" do
    assert {:error, %Error{reason: :invalid_value}} = Values.encode({1, 2})
    assert {:error, %Error{reason: :invalid_value}} = Values.encode(self())
    assert {:error, %Error{reason: :invalid_value}} = Values.encode(<<255>>)
    assert {:error, %Error{reason: :bad_answer}} = Values.decode("{")
  end
end
