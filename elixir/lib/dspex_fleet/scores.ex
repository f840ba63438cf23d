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

  alias DSPexFleet.{Call, Error, Handle, Options, Snapshot, Values}

  @type value :: number | boolean | String.t()
  @type score :: %{
          name: String.t(),
          value: value,
          comment: String.t(),
          scorer: String.t(),
          at: DateTime.t()
        }

  @schema Options.call(
            comment: [type: :string, default: "", doc: "Up to 4 KiB."],
            scorer: [type: :string, default: "", doc: "Who says so; `\"application\"` unless given."]
          )

  @doc """
  Scores a prediction that has ended, in place of its score of the same name and scorer.

  A prediction that goes on is the error `:prediction_not_scorable`, and a score that can't be one is `:score`.

  #{NimbleOptions.docs(@schema)}
  """
  @spec score(Handle.t(), atom | String.t(), value, keyword) :: {:ok, score} | {:error, Error.t()}
  def score(%Handle{} = handle, name, value, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @schema),
         {:ok, name} <- Options.name(name),
         {:ok, encoded} <- Values.encode(value),
         message = %{
           "id" => handle.id,
           "name" => name,
           "value" => encoded,
           "comment" => opts[:comment],
           "scorer" => opts[:scorer]
         },
         build = fn _session -> message end,
         {:ok, answer} <- Call.run(handle.session, :score, "Scores.Score", build, opts[:timeout]),
         do: {:ok, from_message(answer)}
  end

  @doc "Returns a prediction's scores, by name and scorer."
  @spec list(Handle.t(), timeout) :: {:ok, [score]} | {:error, Error.t()}
  def list(%Handle{} = handle, timeout \\ Call.default_timeout()) do
    build = fn _session -> %{"id" => handle.id} end

    with {:ok, answer} <- Call.run(handle.session, :list_scores, "Scores.List", build, timeout),
         do: {:ok, Enum.map(answer["scores"], &from_message/1)}
  end

  @doc "Like `score/4`, but returns the score itself or raises `DSPexFleet.Error`."
  @spec score!(Handle.t(), atom | String.t(), value, keyword) :: score
  def score!(handle, name, value, opts \\ []), do: handle |> score(name, value, opts) |> Error.unwrap!()

  @doc "Like `list/2`, but returns the scores themselves or raises `DSPexFleet.Error`."
  @spec list!(Handle.t(), timeout) :: [score]
  def list!(handle, timeout \\ Call.default_timeout()), do: handle |> list(timeout) |> Error.unwrap!()

  defp from_message(message) do
    %{
      name: message["name"],
      value: message["value"],
      comment: message["comment"],
      scorer: message["scorer"],
      at: Snapshot.time(message["at"])
    }
  end
end
