defmodule MyApp.PredictionWorker do
  # An Oban job that is one prediction, whatever becomes of its attempts: the idempotency key makes the second attempt
  # wait for the prediction of the first, which is neither lost nor paid twice.
  #
  #     %{session: "support", program: "qa@prod", inputs: %{question: "Why is the sky blue?"}}
  #     |> MyApp.PredictionWorker.new()
  #     |> Oban.insert()

  use Oban.Worker, queue: :predictions, max_attempts: 20

  alias DSPexFleet.{Error, Session}

  # The prediction goes on, or may: what follows is another attempt. All other errors are its end, since the fleet has
  # tried what its retry policy says.
  @unknown [:gateway_unavailable, :took_too_long, :context_down, :prediction_timeout]

  @impl Oban.Worker
  def perform(%Oban.Job{id: id, args: %{"session" => session, "program" => program, "inputs" => inputs} = args}) do
    session = Session.new(session, connection: MyApp.Fleet)
    opts = [idempotency_key: "oban-#{id}", await: 120_000] ++ at_least(args)

    case DSPexFleet.predict(session, program, inputs, opts) do
      {:ok, prediction} -> {:ok, prediction}
      {:error, %Error{reason: reason} = error} when reason in @unknown -> {:error, error}
      {:error, %Error{} = error} -> {:cancel, error}
    end
  end

  # Longer than one attempt waits.
  @impl Oban.Worker
  def timeout(_job), do: 150_000

  # The token of the publish that the job is about, if it is about one.
  defp at_least(%{"at_least" => token}), do: [at_least: token]
  defp at_least(_args), do: []
end
