defmodule DSPexFleet.Evaluations do
  @moduledoc """
  Evaluations of programs on datasets, which run as jobs on workers.

      {:ok, job} = Evaluations.start(session, "qa@prod", "golden", "answer_exact_match", arms: ["stable", "latest"])
      {:ok, %{result: %{"arms" => arms}}} = DSPexFleet.Jobs.await(session, job.id)
      {:ok, comparison} = Evaluations.compare(session, arms["stable"]["id"], arms["latest"]["id"])
      comparison.verdict

  An evaluation is a map of `:id`, `:program`, `:version`, `:session`, `:token`, `:dataset`, `:dataset_version`, `:metric`, `:score` (the
  mean in percent), `:low` and `:high` (the plausible values of the mean, as fractions), `:count`, `:errors`, `:usage`, `:ended_at`, `:author`
  and `:record` (the whole record as decoded JSON). The same program, variables, dataset and metric are evaluated once.

  Evaluations hold examples: the functions need a token for all sessions, and `start/5` the scope `release`, or `admin`.
  """

  alias DSPexFleet.{Call, Costs, Error, Job, Jobs, Options, Pages, Session, Snapshot, Values}

  @type evaluation :: %{
          id: String.t(),
          program: String.t(),
          version: pos_integer,
          session: String.t(),
          token: String.t(),
          dataset: String.t(),
          dataset_version: pos_integer,
          metric: String.t(),
          score: float,
          low: float,
          high: float,
          count: non_neg_integer,
          errors: non_neg_integer,
          usage: map | nil,
          ended_at: DateTime.t() | nil,
          author: String.t(),
          record: map | nil
        }
  @type comparison :: %{
          baseline: evaluation,
          candidate: evaluation,
          difference: float,
          low: float,
          high: float,
          verdict: String.t(),
          paired: non_neg_integer,
          detail: map
        }

  @fields ~w(id program version session token dataset dataset_version metric score low high count errors author record)a
  @call_schema Options.call()
  @list_schema Options.call(
                 limit: [type: :pos_integer, default: 100, doc: "The most evaluations."],
                 program: [type: :string, default: "", doc: "Only those of the program of this name."]
               )
  @examples_schema Options.call(limit: [type: :pos_integer, doc: "The most examples; all by default."])
  @start_schema Options.call(
                  arms: [
                    type: {:list, :string},
                    default: [],
                    doc:
                      "Labels or tokens of the session, `\"latest\"`, or labels or versions of the program; `\"latest\"` by default."
                  ],
                  exactly: [
                    type: {:or, [Options.token(), :string]},
                    doc: "Without arms the revision: a token or a label."
                  ],
                  metric_options: [
                    type: Options.object(),
                    doc:
                      "How the metric is called: `:name`, `:arguments`, `:inputs`, `:output`, `:feedback` and `:version`, each if needed."
                  ],
                  failure_score: [
                    type: {:or, [:float, :integer]},
                    doc: "The score of an example that fails; 0 by default."
                  ],
                  repeat: [type: :non_neg_integer, doc: "Another number is another evaluation."],
                  in_flight: [
                    type: :pos_integer,
                    doc: "How many examples are on their way at a time; 1,000 by default."
                  ],
                  keep_s: [type: :pos_integer, doc: "Seconds for which its record is kept; 90 days by default."],
                  drop_content: [
                    type: :boolean,
                    default: false,
                    doc: "Whether the record leaves out inputs, labels and outputs."
                  ],
                  author: [type: :string, default: "", doc: "Who, where the gateway asks for no token."],
                  request_id: [type: :string, doc: "A request that is sent again under the same id is the same job."]
                )

  @doc """
  Starts an evaluation of a program on a dataset and returns its job, whose result names the evaluation of each arm.

  The metric is `"package.module:function"` in a package that the workers allow, the name of one of DSPy's own, such as
  `"answer_exact_match"`, or `"program:NAME"`, which judges. The variables are those of the session.

  #{NimbleOptions.docs(@start_schema)}
  """
  @spec start(Session.ref(), String.t(), String.t(), String.t(), keyword) :: {:ok, Job.t()} | {:error, Error.t()}
  def start(session, program, dataset, metric, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @start_schema),
         {:ok, program} <- Options.string(program, "a program"),
         {:ok, dataset} <- Options.string(dataset, "a dataset"),
         {:ok, metric} <- Options.string(metric, "a metric"),
         {:ok, metric_options} <- encode(opts[:metric_options]) do
      message = %{
        "program" => program,
        "dataset" => dataset,
        "metric" => metric,
        "metric_options" => metric_options,
        "request_id" => opts[:request_id] || Call.fresh_id()
      }

      options = ~w(arms exactly failure_score repeat in_flight keep_s drop_content author)a
      message = Enum.reduce(options, message, &Map.put(&2, to_string(&1), opts[&1]))
      build = &Map.put(message, "session", &1.id)
      Jobs.start(session, :start_evaluation, "Evaluations.Start", build, opts[:timeout])
    end
  end

  @doc """
  Returns the newest evaluations, the newest first.

  #{NimbleOptions.docs(@list_schema)}
  """
  @spec list(Session.ref(), keyword) :: {:ok, [evaluation]} | {:error, Error.t()}
  def list(session, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @list_schema) do
      build = fn %{"page_size" => size, "page_token" => page_token} ->
        %{"limit" => size, "program" => opts[:program], "page_token" => page_token}
      end

      read = &{:ok, evaluation(&1)}
      Pages.read(session, :list_evaluations, {"Evaluations.List", "evaluations"}, build, opts, read)
    end
  end

  @doc "Returns an evaluation by its id, or by the first six characters of it or more."
  @spec get(Session.ref(), String.t(), keyword) :: {:ok, evaluation} | {:error, Error.t()}
  def get(session, id, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @call_schema),
         {:ok, id} <- Options.string(id, "the id of an evaluation"),
         {:ok, answer} <- run(session, :get_evaluation, "Evaluations.Get", %{"id" => id}, opts),
         do: {:ok, evaluation(answer)}
  end

  @doc """
  Returns how each example of an evaluation fared, in the order of the dataset, as decoded JSON.

  #{NimbleOptions.docs(@examples_schema)}
  """
  @spec examples(Session.ref(), String.t(), keyword) :: {:ok, [map]} | {:error, Error.t()}
  def examples(session, id, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @examples_schema),
         {:ok, id} <- Options.string(id, "the id of an evaluation") do
      listing = {"Evaluations.ListExamples", "examples"}
      Pages.read(session, :list_evaluation_examples, listing, &Map.put(&1, "id", id), opts, &{:ok, &1})
    end
  end

  @doc """
  Compares two evaluations of the same examples by the same metric, example by example.

  `:difference` is that of the means, with its plausible values `:low` and `:high`, `:verdict` is `"better"`, `"worse"` or
  `"no clear difference"`, and `:detail` the whole comparison with the examples whose scores differ, as decoded JSON.
  """
  @spec compare(Session.ref(), String.t(), String.t(), keyword) :: {:ok, comparison} | {:error, Error.t()}
  def compare(session, baseline, candidate, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @call_schema),
         {:ok, baseline} <- Options.string(baseline, "the id of an evaluation"),
         {:ok, candidate} <- Options.string(candidate, "the id of an evaluation"),
         message = %{"baseline" => baseline, "candidate" => candidate},
         {:ok, answer} <- run(session, :compare_evaluations, "Evaluations.Compare", message, opts),
         do: {:ok, comparison(answer)}
  end

  @doc "Like `start/5`, but returns the job itself or raises `DSPexFleet.Error`."
  @spec start!(Session.ref(), String.t(), String.t(), String.t(), keyword) :: Job.t()
  def start!(session, program, dataset, metric, opts \\ []),
    do: session |> start(program, dataset, metric, opts) |> Error.unwrap!()

  @doc "Like `list/2`, but returns the evaluations themselves or raises `DSPexFleet.Error`."
  @spec list!(Session.ref(), keyword) :: [evaluation]
  def list!(session, opts \\ []), do: session |> list(opts) |> Error.unwrap!()

  @doc "Like `get/3`, but returns the evaluation itself or raises `DSPexFleet.Error`."
  @spec get!(Session.ref(), String.t(), keyword) :: evaluation
  def get!(session, id, opts \\ []), do: session |> get(id, opts) |> Error.unwrap!()

  @doc "Like `examples/3`, but returns the examples themselves or raises `DSPexFleet.Error`."
  @spec examples!(Session.ref(), String.t(), keyword) :: [map]
  def examples!(session, id, opts \\ []), do: session |> examples(id, opts) |> Error.unwrap!()

  @doc "Like `compare/4`, but returns the comparison itself or raises `DSPexFleet.Error`."
  @spec compare!(Session.ref(), String.t(), String.t(), keyword) :: comparison
  def compare!(session, baseline, candidate, opts \\ []),
    do: session |> compare(baseline, candidate, opts) |> Error.unwrap!()

  defp run(session, name, operation, message, opts),
    do: Call.run(session, name, operation, fn _session -> message end, opts[:timeout])

  defp encode(nil), do: {:ok, nil}
  defp encode(object), do: Values.encode_object(object, "the options of a metric")

  defp evaluation(message) do
    @fields
    |> Map.new(&{&1, message[to_string(&1)]})
    |> Map.merge(%{
      usage: message["usage"] && Costs.usage(message["usage"]),
      ended_at: Snapshot.time(message["ended_at"])
    })
  end

  defp comparison(message) do
    ~w(difference low high verdict paired)a
    |> Map.new(&{&1, message[to_string(&1)]})
    |> Map.merge(%{
      baseline: evaluation(message["baseline"]),
      candidate: evaluation(message["candidate"]),
      detail: message["comparison"]
    })
  end
end
