defmodule DSPexFleet.Scores do
  @moduledoc """
  What applications and people say of predictions that have ended.

  A score is a map of `:name`, `:value` (a number from 0 to 1, a boolean, or a label), `:comment`, `:scorer` and `:at`
  (`DateTime`). A prediction has one for each name and scorer, kept as long as its result, and the last one counts for the
  arms of rollouts that the prediction ran under. A prediction that failed can be scored too, and counts for none.

      handle = DSPexFleet.submit!(ctx, "qa", %{question: "Why is the sky blue?"})
      {:ok, _prediction} = DSPexFleet.await(handle)
      {:ok, _score} = DSPexFleet.Scores.score(handle, :helpful, 0.8, comment: "short and right")
  """

  alias Dspex.Fleet.V1
  alias Dspex.Fleet.V1.Scores.Stub
  alias DSPexFleet.{Call, Error, Handle, Snapshot, Values, Variable}

  @type value :: number | boolean | String.t()
  @type score :: %{
          name: String.t(),
          value: value,
          comment: String.t(),
          scorer: String.t(),
          at: DateTime.t()
        }

  @doc """
  Scores a prediction that has ended, in place of its score of the same name and scorer.

  Options: `:comment` (up to 4 KiB), `:scorer` (`"application"` unless given) and `:timeout`. A prediction that goes on is
  the error `:prediction_not_scorable`, and a score that can't be one is `:score`.
  """
  @spec score(Handle.t(), atom | String.t(), value, keyword) :: {:ok, score} | {:error, Error.t()}
  def score(%Handle{} = handle, name, value, opts \\ []) do
    opts = Keyword.validate!(opts, comment: "", scorer: "", timeout: Call.default_timeout())

    build = fn _session ->
      with {:ok, json} <- Values.encode(value) do
        {:ok,
         %V1.ScoreRequest{
           id: handle.id,
           name: to_string(name),
           value_json: json,
           comment: opts[:comment],
           scorer: opts[:scorer]
         }}
      end
    end

    with {:ok, wire} <- Call.run(handle.context, :score, {Stub, :score}, build, opts[:timeout]), do: from_wire(wire)
  end

  @doc "Returns a prediction's scores, by name and scorer."
  @spec list(Handle.t(), timeout) :: {:ok, [score]} | {:error, Error.t()}
  def list(%Handle{} = handle, timeout \\ Call.default_timeout()) do
    build = fn _session -> %V1.ListScoresRequest{id: handle.id} end

    with {:ok, wire} <- Call.run(handle.context, :list_scores, {Stub, :list}, build, timeout),
         do: Variable.traverse(wire.scores, &from_wire/1)
  end

  @doc "Like `score/4`, but returns the score itself or raises `DSPexFleet.Error`."
  @spec score!(Handle.t(), atom | String.t(), value, keyword) :: score
  def score!(handle, name, value, opts \\ []), do: handle |> score(name, value, opts) |> Error.unwrap!()

  @doc "Like `list/2`, but returns the scores themselves or raises `DSPexFleet.Error`."
  @spec list!(Handle.t(), timeout) :: [score]
  def list!(handle, timeout \\ Call.default_timeout()), do: handle |> list(timeout) |> Error.unwrap!()

  defp from_wire(%V1.PredictionScore{} = wire) do
    with {:ok, value} <- Values.decode(wire.value_json) do
      {:ok, %{name: wire.name, value: value, comment: wire.comment, scorer: wire.scorer, at: Snapshot.time(wire.at)}}
    end
  end
end
