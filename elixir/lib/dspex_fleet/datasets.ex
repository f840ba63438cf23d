defmodule DSPexFleet.Datasets do
  @moduledoc """
  Datasets: named, versioned lists of examples, for evaluations and optimizers.

      {:ok, %{version: 1}} =
        Datasets.add(session, "golden", [%{question: "What is 6 times 7?", answer: "42"}], inputs: [:question])

      {:ok, dataset} = Datasets.add_from_predictions(session, "qa", "hard", scores: ["helpful<0.5"], since_s: 86_400)

  A reference is a name, `"golden"`, for its newest version, or `"golden:3"`. A dataset is a map of `:name`, `:version`, `:digest`,
  `:inputs` (the input fields), `:examples` (their number), `:size_bytes`, `:author`, `:source` and `:at` (`DateTime`).

  Datasets may hold predictions of all sessions, so that the functions need a token for all of them; the session only says which
  connection to use. Those that store or remove one need the scope `release`, or `admin`.
  """

  alias DSPexFleet.{Call, Error, Options, Pages, Session, Snapshot, Values, Variable}

  @type dataset :: %{
          name: String.t(),
          version: pos_integer,
          digest: String.t(),
          inputs: [String.t()],
          examples: non_neg_integer,
          size_bytes: non_neg_integer,
          author: String.t(),
          source: String.t(),
          at: DateTime.t() | nil
        }

  @author [type: :string, default: "", doc: "Who, where the gateway asks for no token."]
  @call_schema Options.call()
  @list_schema Options.call(
                 prefix: [type: :string, default: "", doc: "What the names begin with."],
                 limit: [type: :pos_integer, doc: "The most datasets; all by default."]
               )
  @examples_schema Options.call(limit: [type: :pos_integer, doc: "The most examples; all by default."])
  @add_schema Options.call(
                inputs: [
                  type: Options.names(),
                  required: true,
                  doc:
                    "The input fields, of which every example has all; one may lack `\"context?\"`. None for a program without inputs."
                ],
                author: @author,
                source: [type: :string, default: "", doc: "What the examples were read from."]
              )
  @predictions_schema Options.call(
                        scores: [
                          type: {:list, :string},
                          default: [],
                          doc:
                            "Conditions on their scores, such as `\"helpful<0.5\"` or `\"tone=curt\"`, all of which hold."
                        ],
                        error: [
                          type: :string,
                          default: "",
                          doc: "The class of their error, or `\"any\"`; those that succeeded by default."
                        ],
                        session: [type: :string, default: "", doc: "The session that they ran under; any by default."],
                        token: [type: Options.token(), doc: "The token that they ran under; any by default."],
                        version: [type: :pos_integer, doc: "The program's version; any by default."],
                        since_s: [
                          type: {:or, [:non_neg_integer, :float]},
                          doc: "How many seconds ago they ended at most; all that are recorded by default."
                        ],
                        limit: [type: :pos_integer, default: 1_000, doc: "The newest so many."],
                        author: @author
                      )

  @doc """
  Returns the datasets by name, each in its newest version.

  #{NimbleOptions.docs(@list_schema)}
  """
  @spec list(Session.ref(), keyword) :: {:ok, [dataset]} | {:error, Error.t()}
  def list(session, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @list_schema) do
      page = &Map.put(&1, "prefix", opts[:prefix])
      Pages.read(session, :list_datasets, {"Datasets.List", "datasets"}, page, opts, &{:ok, dataset(&1)})
    end
  end

  @doc "Returns what is known of a dataset, without its examples."
  @spec get(Session.ref(), String.t(), keyword) :: {:ok, dataset} | {:error, Error.t()}
  def get(session, reference, opts \\ []) do
    with {:ok, answer} <- call(session, :get_dataset, "Datasets.Get", {"reference", reference}, opts),
         do: {:ok, dataset(answer)}
  end

  @doc "Returns every version of a dataset, oldest first."
  @spec versions(Session.ref(), String.t(), keyword) :: {:ok, [dataset]} | {:error, Error.t()}
  def versions(session, name, opts \\ []) do
    with {:ok, answer} <- call(session, :list_dataset_versions, "Datasets.ListVersions", {"name", name}, opts),
         do: {:ok, Enum.map(answer["versions"], &dataset/1)}
  end

  @doc """
  Returns the examples of a dataset in their order, each a map by field.

  #{NimbleOptions.docs(@examples_schema)}
  """
  @spec examples(Session.ref(), String.t(), keyword) :: {:ok, [map]} | {:error, Error.t()}
  def examples(session, reference, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @examples_schema),
         {:ok, reference} <- Options.string(reference, "a dataset") do
      page = &Map.put(&1, "reference", reference)
      Pages.read(session, :list_dataset_examples, {"Datasets.ListExamples", "examples"}, page, opts, &{:ok, &1})
    end
  end

  @doc """
  Stores examples, each a map by field, as the newest version of a name; content that is a version keeps that version.

  #{NimbleOptions.docs(@add_schema)}
  """
  @spec add(Session.ref(), String.t(), [map | keyword], keyword) :: {:ok, dataset} | {:error, Error.t()}
  def add(session, name, examples, opts) do
    with {:ok, opts} <- Options.validate(opts, @add_schema),
         {:ok, name} <- Options.name(name),
         {:ok, examples} <- encode_examples(examples) do
      message = %{
        "name" => name,
        "examples" => examples,
        "inputs" => opts[:inputs],
        "author" => opts[:author],
        "source" => opts[:source]
      }

      stored(session, :add_dataset, "Datasets.Add", message, opts)
    end
  end

  @doc """
  Stores predictions of a program that `DSPexFleet.Recorders` has kept as the newest version of a name.

  #{NimbleOptions.docs(@predictions_schema)}
  """
  @spec add_from_predictions(Session.ref(), String.t(), String.t(), keyword) :: {:ok, dataset} | {:error, Error.t()}
  def add_from_predictions(session, program, name, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @predictions_schema),
         {:ok, program} <- Options.string(program, "a program"),
         {:ok, name} <- Options.name(name) do
      message = %{
        "program" => program,
        "name" => name,
        "scores" => opts[:scores],
        "error" => opts[:error],
        "under_session" => opts[:session],
        "under_token" => opts[:token],
        "version" => opts[:version],
        "since_s" => opts[:since_s],
        "limit" => opts[:limit],
        "author" => opts[:author]
      }

      stored(session, :add_dataset_from_predictions, "Datasets.AddFromPredictions", message, opts)
    end
  end

  @doc "Returns which examples were added, removed or changed between two datasets, and how many are `:unchanged`."
  @spec diff(Session.ref(), String.t(), String.t(), keyword) ::
          {:ok, %{unchanged: non_neg_integer, diff: map}} | {:error, Error.t()}
  def diff(session, before, later, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @call_schema),
         {:ok, before} <- Options.string(before, "a dataset"),
         {:ok, later} <- Options.string(later, "a dataset"),
         message = %{"before" => before, "after" => later},
         {:ok, answer} <- run(session, :diff_datasets, "Datasets.Diff", message, opts),
         do: {:ok, %{unchanged: answer["unchanged"], diff: answer["diff"]}}
  end

  @doc "Removes a version, or with a name alone all of its versions, and returns those that it has removed."
  @spec remove(Session.ref(), String.t(), keyword) :: {:ok, [dataset]} | {:error, Error.t()}
  def remove(session, reference, opts \\ []) do
    with {:ok, answer} <- call(session, :remove_dataset, "Datasets.Remove", {"reference", reference}, opts),
         do: {:ok, Enum.map(answer["versions"], &dataset/1)}
  end

  @doc "Like `list/2`, but returns the datasets themselves or raises `DSPexFleet.Error`."
  @spec list!(Session.ref(), keyword) :: [dataset]
  def list!(session, opts \\ []), do: session |> list(opts) |> Error.unwrap!()

  @doc "Like `get/3`, but returns the dataset itself or raises `DSPexFleet.Error`."
  @spec get!(Session.ref(), String.t(), keyword) :: dataset
  def get!(session, reference, opts \\ []), do: session |> get(reference, opts) |> Error.unwrap!()

  @doc "Like `versions/3`, but returns the datasets themselves or raises `DSPexFleet.Error`."
  @spec versions!(Session.ref(), String.t(), keyword) :: [dataset]
  def versions!(session, name, opts \\ []), do: session |> versions(name, opts) |> Error.unwrap!()

  @doc "Like `examples/3`, but returns the examples themselves or raises `DSPexFleet.Error`."
  @spec examples!(Session.ref(), String.t(), keyword) :: [map]
  def examples!(session, reference, opts \\ []), do: session |> examples(reference, opts) |> Error.unwrap!()

  @doc "Like `add/4`, but returns the dataset itself or raises `DSPexFleet.Error`."
  @spec add!(Session.ref(), String.t(), [map | keyword], keyword) :: dataset
  def add!(session, name, examples, opts), do: session |> add(name, examples, opts) |> Error.unwrap!()

  @doc "Like `add_from_predictions/4`, but returns the dataset itself or raises `DSPexFleet.Error`."
  @spec add_from_predictions!(Session.ref(), String.t(), String.t(), keyword) :: dataset
  def add_from_predictions!(session, program, name, opts \\ []),
    do: session |> add_from_predictions(program, name, opts) |> Error.unwrap!()

  @doc "Like `diff/4`, but returns the difference itself or raises `DSPexFleet.Error`."
  @spec diff!(Session.ref(), String.t(), String.t(), keyword) :: %{unchanged: non_neg_integer, diff: map}
  def diff!(session, before, later, opts \\ []), do: session |> diff(before, later, opts) |> Error.unwrap!()

  @doc "Like `remove/3`, but returns the datasets themselves or raises `DSPexFleet.Error`."
  @spec remove!(Session.ref(), String.t(), keyword) :: [dataset]
  def remove!(session, reference, opts \\ []), do: session |> remove(reference, opts) |> Error.unwrap!()

  defp stored(session, name, operation, message, opts) do
    with {:ok, answer} <- run(session, name, operation, message, opts), do: {:ok, dataset(answer)}
  end

  defp call(session, name, operation, {field, reference}, opts) do
    with {:ok, opts} <- Options.validate(opts, @call_schema),
         {:ok, reference} <- Options.string(reference, "a dataset"),
         do: run(session, name, operation, %{field => reference}, opts)
  end

  defp run(session, name, operation, message, opts),
    do: Call.run(session, name, operation, fn _session -> message end, opts[:timeout])

  defp encode_examples(examples) when is_list(examples) do
    with {:ok, objects} <- Variable.traverse(examples, &example/1), do: Values.encode(objects)
  end

  defp encode_examples(other),
    do: {:error, Error.new(:invalid_value, "expected examples as a list, got: #{inspect(other, limit: 10)}")}

  defp example(example) do
    with {:error, message} <- Options.validate_object(example),
         do: {:error, Error.new(:invalid_value, "as an example: " <> message)}
  end

  defp dataset(message) do
    ~w(name version digest inputs examples size_bytes author source)a
    |> Map.new(&{&1, message[to_string(&1)]})
    |> Map.put(:at, Snapshot.time(message["at"]))
  end
end
