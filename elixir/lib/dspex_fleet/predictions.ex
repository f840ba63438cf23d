defmodule DSPexFleet.Predictions do
  @moduledoc """
  Finished predictions as `DSPexFleet.Recorders` keep them, with their inputs, outputs and scores.

      session
      |> Predictions.search!(program: "qa", scores: ["helpful<0.5"], since_s: 86_400)
      |> Enum.take(20)

  A recorded prediction is a map of `:id`, `:program`, `:version`, `:session`, `:token` (the version and the token are nil of one that
  failed before they were known), `:inputs` and `:outputs` (each a map by field), `:error` (the class of its error, or nil if it
  succeeded), `:model`, `:arms` (of rollouts and experiments, each a map of `:rollout`, the id, `:arm`, `:stage` and `:target`), `:scores`
  (a map by name: of several scorers their mean, or the last label) and `:at` (`DateTime`).

  The token needs the scope `predict`. Predictions are found that ran under sessions which it covers; the session that is given only says
  which connection to use.
  """

  alias DSPexFleet.{Error, Options, Pages, Prediction, Session, Snapshot, Token}

  @type recorded :: %{
          id: String.t(),
          program: String.t(),
          version: pos_integer | nil,
          session: String.t(),
          token: Token.t() | nil,
          inputs: map,
          outputs: map,
          error: String.t() | nil,
          model: String.t(),
          arms: [map],
          scores: %{String.t() => number | boolean | String.t()},
          at: DateTime.t() | nil
        }

  @search_schema Options.call(
                   program: [
                     type: :string,
                     default: "",
                     doc: "Their program's name; by default all programs that have a recorder."
                   ],
                   version: [type: :pos_integer, doc: "The program's version; any by default."],
                   session: [type: :string, default: "", doc: "The session that they ran under; any by default."],
                   token: [type: Options.token(), doc: "The token that they ran under; any by default."],
                   outcome: [
                     type: Options.text(),
                     doc:
                       "`:succeeded`, `:failed`, or the class of an error, such as `\"LMRefusedError\"`; any by default."
                   ],
                   arm: [type: Options.text(), doc: "The arm of a rollout or an experiment; any or none by default."],
                   scores: [
                     type: {:list, :string},
                     default: [],
                     doc: "Conditions on their scores, such as `\"helpful<0.5\"` or `\"tone=curt\"`, all of which hold."
                   ],
                   since_s: [
                     type: {:or, [:float, :non_neg_integer]},
                     doc: "How many seconds ago they ended at most; all that are recorded by default."
                   ],
                   id: [type: :string, default: "", doc: "This one alone."],
                   page_size: [type: {:in, 1..200}, default: 50, doc: "The most that are read at a time."]
                 )

  @doc """
  Streams recorded predictions as `{:ok, recorded}`, newest first, to the end of them or `{:error, error}`.

  They are read in pages, the next one when the stream gets there: a stream that is left early reads no further. The `:timeout` is for
  each page. Where few of many are looked for, a page may take several requests.

  #{NimbleOptions.docs(@search_schema)}
  """
  @spec search(Session.ref(), keyword) :: Enumerable.t({:ok, recorded} | {:error, Error.t()})
  def search(session, opts \\ []) do
    case Options.validate(opts, @search_schema) do
      {:ok, opts} ->
        listing = {"Predictions.Search", "predictions"}
        Pages.stream(session, :search_predictions, listing, &Map.merge(&1, wanted(opts)), opts, &{:ok, recorded(&1)})

      {:error, error} ->
        [{:error, error}]
    end
  end

  @doc "Like `search/2`, but streams the recorded predictions themselves and raises `DSPexFleet.Error`."
  @spec search!(Session.ref(), keyword) :: Enumerable.t(recorded)
  def search!(session, opts \\ []), do: session |> search(opts) |> Stream.map(&Error.unwrap!/1)

  defp wanted(opts) do
    ~w(program version outcome arm scores since_s id)a
    |> Map.new(&{to_string(&1), opts[&1]})
    |> Map.merge(%{"under_session" => opts[:session], "under_token" => opts[:token]})
  end

  defp recorded(message) do
    ~w(id program session inputs outputs model scores)a
    |> Map.new(&{&1, message[to_string(&1)]})
    |> Map.merge(%{
      version: if(message["version"] != 0, do: message["version"]),
      token: Prediction.token(message["token"]),
      error: if(message["error"] != "", do: message["error"]),
      arms: Prediction.arms(message["arms"]),
      at: Snapshot.time(message["at"])
    })
  end
end
