defmodule DSPexFleet.RequirementTest do
  use ExUnit.Case, async: true

  alias DSPexFleet.{Error, Requirement}

  test "a token is a requirement, and two exclude each other" do
    assert Requirement.fields([]) == {:ok, %{}}
    assert Requirement.fields(at_least: "1.2") == {:ok, %{"at_least" => "1.2"}}
    assert Requirement.fields(exactly: "1.2") == {:ok, %{"exactly" => "1.2"}}
    assert {:error, %Error{reason: :invalid_option}} = Requirement.fields(at_least: "1.1", exactly: "1.2")
  end

  test "a session that isn't there yet can be expected" do
    assert Requirement.token_text(:absent) == "0.0"
    assert Requirement.token_text(nil) == nil
  end
end
