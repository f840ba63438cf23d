defmodule DSPexFleet.AssignmentTest do
  use ExUnit.Case, async: true

  alias DSPexFleet.{Assignment, Rollout}

  doctest Assignment

  # The fleet's own tests read the same file.
  @vectors "../../../tests/vectors/assignment.json"
           |> Path.expand(__DIR__)
           |> File.read!()
           |> JSON.decode!()
           |> Map.fetch!("vectors")

  test "a key has the bucket and the first share that the fleet computes" do
    assert length(@vectors) > 5

    for %{"salt" => salt, "key" => key, "bucket" => bucket, "first_share" => first} <- @vectors do
      assert Assignment.bucket(salt, key) == String.to_integer(bucket)
      assert Assignment.arm(salt, key, first / 1_000_000) == :candidate
      assert Assignment.arm(salt, key, (first - 1) / 1_000_000) == :baseline
    end
  end

  test "a rollout's share decides, and a larger one only adds keys" do
    keys = for n <- 1..1_000, do: "user-#{n}"
    arms = fn share -> Enum.filter(keys, &(Assignment.arm(%Rollout{id: "r", share: share}, &1) == :candidate)) end
    shares = [0.0, 0.01, 0.1, 0.5, 1.0]

    for {smaller, larger} <- Enum.zip(shares, tl(shares)) do
      assert arms.(smaller) -- arms.(larger) == []
      assert_in_delta length(arms.(larger)), 1_000 * larger, 60
    end

    assert {arms.(0.0), arms.(1.0)} == {[], keys}
  end

  test "a key of more than a kilobyte is refused" do
    assert_raise FunctionClauseError, fn -> Assignment.bucket("r", String.duplicate("x", 1_025)) end
  end
end
