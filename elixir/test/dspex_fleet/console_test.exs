defmodule DSPexFleet.ConsoleTest do
  use ExUnit.Case, async: true

  alias DSPexFleet.{Console, Handle, Prediction, Session}

  doctest Console

  @base "http://127.0.0.1:8061"

  test "a session, a handle and a prediction are named by their ids" do
    assert Console.session_url(@base, %Session{id: "shop", connection: nil}) == Console.session_url(@base, "shop")

    assert Console.prediction_url(@base, %Handle{id: "4f7c", session: %Session{id: "shop", connection: nil}}) ==
             Console.prediction_url(@base, "4f7c")

    assert Console.prediction_url(@base, %Prediction{id: "4f7c"}) == Console.prediction_url(@base, "4f7c")
  end

  test "no name leaves its place in the address" do
    assert Console.session_url(@base, "a&b=c#d größe/../x") ==
             @base <> "/session?name=a%26b%3Dc%23d+gr%C3%B6%C3%9Fe%2F..%2Fx"
  end
end
