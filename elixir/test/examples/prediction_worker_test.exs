defmodule MyApp.PredictionWorkerTest do
  # The example has one connection, by its name.
  use ExUnit.Case, async: false

  alias DSPexFleet.{Connection, Error, Prediction}
  alias DSPexFleet.Testing, as: Fleet
  alias DSPexFleet.Testing.Transport
  alias MyApp.PredictionWorker

  defmodule Repo do
    use Ecto.Repo, otp_app: :dspex_fleet, adapter: Ecto.Adapters.Postgres
  end

  use Oban.Testing, repo: Repo

  setup do
    fleet = start_supervised!(Fleet)
    start_supervised!({Connection, name: MyApp.Fleet, transport: {Transport, fleet}, target: "127.0.0.1:1"})
    Fleet.answer(fleet, "qa", fn inputs, _variables -> %{answer: "answer of #{inputs["question"]}"} end)
    {:ok, fleet: fleet, session: Fleet.session(fleet, "support")}
  end

  @args %{session: "support", program: "qa@prod", inputs: %{question: "Why?"}}

  defp attempt(id, args, opts \\ []) do
    PredictionWorker |> build_job(args, opts) |> Map.put(:id, id) |> perform_job()
  end

  test "a job is one prediction under the job's key, however often it is attempted", %{session: session} do
    assert {:ok, %Prediction{id: id, outputs: %{"answer" => "answer of Why?"}}} =
             attempt(7, @args)

    assert {:ok, %Prediction{id: ^id}} = attempt(7, @args, attempt: 2)
    assert {:ok, %Prediction{id: other}} = attempt(8, @args)
    assert other != id
    Fleet.assert_submitted(session, "qa@prod", %{question: "Why?"})
  end

  test "it is tried again while its end isn't known, and not after its end", %{fleet: fleet} do
    Fleet.stub(fleet, "Predictions.Submit", fn _request -> {:error, :took_too_long} end)
    assert {:error, %Error{reason: :took_too_long}} = attempt(7, @args)

    Fleet.stub(fleet, "Predictions.Submit", fn _request -> :pass end)
    Fleet.answer(fleet, "qa", fn _inputs, _variables -> {:error, :lm_refused} end)
    assert {:cancel, %Error{reason: :lm_refused}} = attempt(8, @args)
  end

  test "it runs on the state that its publish has made, or a later one", %{fleet: fleet} do
    test = self()

    Fleet.stub(fleet, "Predictions.Submit", fn request ->
      send(test, {:at_least, request["at_least"]})
      :pass
    end)

    assert {:ok, _prediction} = attempt(7, Map.put(@args, :at_least, "7.1"))
    assert_received {:at_least, "7.1"}
  end
end
