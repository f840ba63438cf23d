defmodule DSPexFleet.PredictionsTest do
  use ExUnit.Case, async: true

  alias DSPexFleet.{Error, Predictions, Testing, Token}

  @recorded %{
    "id" => "",
    "program" => "qa",
    "version" => 3,
    "session" => "shop",
    "token" => "1.7",
    "inputs" => %{"question" => "Why?"},
    "outputs" => %{"answer" => "So."},
    "error" => "",
    "model" => "test",
    "arms" => [%{"rollout" => "r", "arm" => "candidate", "stage" => 1, "target" => "session:shop"}],
    "scores" => %{"helpful" => 0.5},
    "at" => "2026-01-02T03:04:05Z"
  }

  # Three pages: two predictions, none, and a last one.
  setup do
    fleet = start_supervised!(Testing)
    test = self()

    Testing.stub(fleet, "Predictions.Search", fn request ->
      send(test, {:page, request})

      case request["page_token"] do
        "" -> page(["a", "b"], "second")
        "second" -> page([], "third")
        "third" -> page(["c"], "")
      end
    end)

    {:ok, fleet: fleet, session: Testing.session(fleet)}
  end

  defp page(ids, next),
    do: {:ok, %{"predictions" => Enum.map(ids, &%{@recorded | "id" => &1}), "next_page_token" => next}}

  test "the pages are read to their end, with what is searched for in each", %{session: session} do
    options = [program: "qa", version: 3, session: "shop", token: "1.7", outcome: :succeeded, scores: ["helpful<0.6"]]
    found = Predictions.search!(session, [arm: "candidate", since_s: 60, page_size: 2] ++ options)
    assert Enum.map(found, & &1.id) == ["a", "b", "c"]

    wanted = %{
      "program" => "qa",
      "version" => 3,
      "under_session" => "shop",
      "under_token" => "1.7",
      "outcome" => "succeeded",
      "arm" => "candidate",
      "scores" => ["helpful<0.6"],
      "since_s" => 60,
      "id" => "",
      "page_size" => 2
    }

    for token <- ["", "second", "third"] do
      request = Map.put(wanted, "page_token", token)
      assert_received {:page, ^request}
    end
  end

  test "a stream that is left reads no further page", %{session: session} do
    assert [{:ok, %{id: "a"}}, {:ok, %{id: "b"}}] = session |> Predictions.search() |> Enum.take(2)
    assert_received {:page, %{"page_token" => "", "page_size" => 50}}
    refute_received {:page, _second}
  end

  test "a recorded prediction has its token, arms and time", %{session: session} do
    assert [prediction] = session |> Predictions.search!() |> Enum.take(1)
    assert %{version: 3, token: %Token{revision: 7}, error: nil, at: ~U[2026-01-02 03:04:05Z]} = prediction
    assert prediction.arms == [%{rollout: "r", arm: "candidate", stage: 1, target: "session:shop"}]
    assert {prediction.inputs["question"], prediction.outputs["answer"]} == {"Why?", "So."}
    assert prediction.scores == %{"helpful" => 0.5}
  end

  test "one that failed early has an error, and neither a version nor a token", %{fleet: fleet, session: session} do
    early = %{@recorded | "version" => 0, "token" => "", "outputs" => %{}, "error" => "InputError", "arms" => []}

    Testing.stub(fleet, "Predictions.Search", fn _request ->
      {:ok, %{"predictions" => [early], "next_page_token" => ""}}
    end)

    assert [%{version: nil, token: nil, error: "InputError", arms: []}] =
             session |> Predictions.search!() |> Enum.to_list()
  end

  test "an error ends the stream, after what came before it", %{fleet: fleet, session: session} do
    Testing.stub(fleet, "Predictions.Search", fn
      %{"page_token" => ""} -> page(["a"], "second")
      _second -> {:error, :store_unavailable}
    end)

    assert [{:ok, %{id: "a"}}, {:error, %Error{reason: :store_unavailable}}] =
             session |> Predictions.search() |> Enum.to_list()

    assert_raise Error, fn -> session |> Predictions.search!() |> Stream.run() end
  end

  test "an option that can't be is an error, and nothing is read", %{session: session} do
    for options <- [
          [page_size: 201],
          [version: 0],
          [token: "soon"],
          [scores: "helpful<1"],
          [outcome: nil],
          [no_such: 1]
        ] do
      assert [{:error, %Error{reason: :invalid_option}}] = session |> Predictions.search(options) |> Enum.to_list()
    end

    refute_received {:page, _any}
  end
end
