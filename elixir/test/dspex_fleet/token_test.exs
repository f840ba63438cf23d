defmodule DSPexFleet.TokenTest do
  use ExUnit.Case, async: true

  alias DSPexFleet.Token

  doctest Token

  test "tokens compare by epoch, then by revision, as numbers and not as text" do
    tokens = Enum.map(["2.1", "1.10", "1.9"], &Token.parse!/1)
    assert tokens |> Enum.sort(Token) |> Enum.map(&to_string/1) == ["1.9", "1.10", "2.1"]
    assert Token.compare(Token.parse!("1.9"), Token.parse!("1.9")) == :eq
  end

  test "what isn't a token is refused" do
    for text <- ["", "7", "1.2.3", "-1.2", "1.x", " 1.2", "1.2\n"] do
      assert Token.parse(text) == :error
      assert_raise ArgumentError, ~r/epoch.revision/, fn -> Token.parse!(text) end
    end
  end
end
