defmodule DSPexFleet.Predictions do
  @moduledoc """
  Finished predictions as `DSPexFleet.Recorders` keep them, with their inputs, outputs and scores, and the LM calls of those whose workers
  capture them.

      session
      |> Predictions.search!(program: "qa", scores: ["helpful<0.5"], since_s: 86_400)
      |> Enum.take(20)

  A recorded prediction is a map of `:id`, `:program`, `:version`, `:session`, `:token` (the version and the token are nil of one that
  failed before they were known), `:inputs` and `:outputs` (each a map by field), `:error` (the class of its error, or nil if it
  succeeded), `:model`, `:arms` (of rollouts and experiments, each a map of `:rollout`, the id, `:arm`, `:stage` and `:target`), `:scores`
  (a map by name: of several scorers their mean, or the last label) and `:at` (`DateTime`).

  The token needs the scope `predict`, or `content` for `lm_calls/3`. Predictions are found that ran under sessions which it covers; the
  session that is given only says which connection to use.
  """

  alias DSPexFleet.{Call, Error, Options, Pages, Prediction, Session, Snapshot, Token}

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
  @type lm_call :: %{
          profile: String.t(),
          model: String.t(),
          started_at: DateTime.t() | nil,
          duration_s: float,
          messages: [map],
          answer: map | nil,
          requests: non_neg_integer,
          input_tokens: non_neg_integer,
          cached_input_tokens: non_neg_integer,
          output_tokens: non_neg_integer,
          reasoning_tokens: non_neg_integer,
          cost_usd: String.t() | nil,
          error: String.t() | nil,
          cut: boolean
        }
  @type lm_calls :: %{captured: boolean, calls: [lm_call], omitted: non_neg_integer}

  @lm_call ~w(profile model duration_s answer requests input_tokens cached_input_tokens output_tokens reasoning_tokens
              cost_usd cut)a

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
  @call_schema Options.call()

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

  @doc """
  Returns the LM calls of a prediction that has ended, by its id, with what was asked and answered.

  It is a map of `:captured` (false if its worker captures none, or they have expired with the prediction's result), `:calls`, in the order
  in which they began, and `:omitted`, how many further calls weren't kept. A call is a map of

    * `:profile`, `:model` – those that answered, or that were called if none did.
    * `:started_at` (`DateTime`), `:duration_s` – with retries and fallbacks.
    * `:messages`, `:answer` – decoded JSON: what was asked, each with `"role"` and `"parts"`, and what was answered, with
      `"finish_reason"` as well; the answer is nil if the call failed.
    * `:requests` – those that were sent to providers; 0 if the response cache or the journal answered.
    * `:input_tokens`, `:cached_input_tokens`, `:output_tokens`, `:reasoning_tokens`, and `:cost_usd`, an exact decimal number as a string,
      or nil if it isn't known.
    * `:error` – the kind of its error, or nil if it was answered.
    * `:cut` – true if it is without messages and answer, because the prediction's calls are too large.

  A prediction that isn't there is the error `:prediction_not_found`.

  #{NimbleOptions.docs(@call_schema)}
  """
  @spec lm_calls(Session.ref(), String.t(), keyword) :: {:ok, lm_calls} | {:error, Error.t()}
  def lm_calls(session, id, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @call_schema),
         {:ok, id} <- Options.string(id, "the id of a prediction"),
         build = fn _session -> %{"id" => id} end,
         {:ok, answer} <- Call.run(session, :list_lm_calls, "Predictions.ListLMCalls", build, opts[:timeout]) do
      {:ok,
       %{
         captured: answer["captured"],
         calls: Enum.map(answer["calls"], &lm_call/1),
         omitted: answer["omitted"]
       }}
    end
  end

  @doc "Like `search/2`, but streams the recorded predictions themselves and raises `DSPexFleet.Error`."
  @spec search!(Session.ref(), keyword) :: Enumerable.t(recorded)
  def search!(session, opts \\ []), do: session |> search(opts) |> Stream.map(&Error.unwrap!/1)

  @doc "Like `lm_calls/3`, but returns the map itself or raises `DSPexFleet.Error`."
  @spec lm_calls!(Session.ref(), String.t(), keyword) :: lm_calls
  def lm_calls!(session, id, opts \\ []), do: session |> lm_calls(id, opts) |> Error.unwrap!()

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

  defp lm_call(message) do
    @lm_call
    |> Map.new(&{&1, message[to_string(&1)]})
    |> Map.merge(%{
      started_at: Snapshot.time(message["started_at"]),
      messages: message["messages"] || [],
      error: if(message["error"] != "", do: message["error"])
    })
  end
end
