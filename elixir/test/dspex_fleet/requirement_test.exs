defmodule DSPexFleet.RequirementTest do
  use ExUnit.Case, async: true

  alias DSPexFleet.{Requirement, Token}

  test "a token or its text is a requirement, and two exclude each other" do
    assert Requirement.of([]) == nil
    assert Requirement.of(at_least: Token.parse!("1.2")) == {:at_least, "1.2"}
    assert Requirement.of(exactly: "1.2") == {:exactly, "1.2"}
    assert_raise ArgumentError, fn -> Requirement.of(at_least: "1.1", exactly: "1.2") end
  end

  test "a session that isn't there yet can be expected" do
    assert Requirement.token_text(:absent) == "0.0"
    assert Requirement.token_text(nil) == ""
  end
end
