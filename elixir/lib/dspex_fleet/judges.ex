defmodule DSPexFleet.Judges do
  @moduledoc """
  Judges: programs that score a sampled share of other programs' predictions, within a budget.

      {:ok, _judge} =
        Judges.add(session, "qa", :helpful, "judge@prod",
          inputs: %{question: "inputs.question", answer: "outputs.answer"},
          share: 0.05,
          usd_per_hour: 2.0
        )

  A judge is a map of `:judged` (the program whose predictions it scores), `:name` (of its scores), `:program`, `:inputs`,
  `:output`, `:comment`, `:share`, `:usd_per_hour` and `:concurrency`. They are variables of the session `dspex.judges`,
  which the token has to cover, with the scope `control` to add or remove one; the session that is given only says which
  connection to use.
  """

  alias DSPexFleet.{Call, Error, Options, Session, Values}

  @fields ~w(judged name program inputs output comment share usd_per_hour concurrency)a
  @figures ~w(judged failed cost_usd unaffordable unattended open problem)a

  @type judge :: %{
          judged: String.t(),
          name: String.t(),
          program: String.t(),
          inputs: map,
          output: String.t(),
          comment: String.t(),
          share: float,
          usd_per_hour: float,
          concurrency: pos_integer
        }
  @type report :: %{
          judge: judge,
          judged: non_neg_integer,
          failed: non_neg_integer,
          cost_usd: String.t(),
          unaffordable: non_neg_integer,
          unattended: non_neg_integer,
          open: non_neg_integer,
          problem: String.t()
        }

  @number {:or, [:float, :non_neg_integer]}
  @author [type: :string, default: ""]
  @call_schema Options.call()
  @add_schema Options.call(
                inputs: [
                  type: Options.object(),
                  required: true,
                  doc:
                    "The judge's input fields, each `\"inputs.FIELD\"` or `\"outputs.FIELD\"` of the judged prediction."
                ],
                output: [type: :string, default: "score", doc: "The judge's output field that is the score."],
                comment: [type: :string, default: "", doc: "Its output field that is the score's comment."],
                share: [type: @number, doc: "Of the predictions that it scores; 0.1 by default."],
                usd_per_hour: [type: @number, doc: "What it may cost in an hour; 1 by default."],
                concurrency: [type: :pos_integer, doc: "How many of its predictions may wait or run; 8 by default."],
                author: @author
              )
  @remove_schema Options.call(author: @author)

  @doc """
  Returns the judges, each with what it did in this hour, and those that can't judge as `{name, problem}`.

  A report is a map of `:judge`, `:judged` and `:failed` (its predictions that have ended, and those without a score),
  `:cost_usd`, `:unaffordable` and `:unattended` (those of the sample that it left out), `:open`, and `:problem` (why the
  latest one gave no score, or couldn't be judged; empty if none did).
  """
  @spec list(Session.ref(), keyword) :: {:ok, {[report], [{String.t(), String.t()}]}} | {:error, Error.t()}
  def list(session, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @call_schema),
         {:ok, answer} <- Call.run(session, :list_judges, "Judges.List", fn _session -> %{} end, opts[:timeout]) do
      {:ok, {Enum.map(answer["judges"], &report/1), Enum.map(answer["invalid"], &{&1["judge"], &1["problem"]})}}
    end
  end

  @doc """
  Adds a judge for the predictions of a program, in place of the one of the same program and name.

  #{NimbleOptions.docs(@add_schema)}
  """
  @spec add(Session.ref(), String.t(), atom | String.t(), String.t(), keyword) :: {:ok, judge} | {:error, Error.t()}
  def add(session, judged, name, program, opts) do
    with {:ok, opts} <- Options.validate(opts, @add_schema),
         {:ok, judged} <- Options.string(judged, "the program that is judged"),
         {:ok, name} <- Options.name(name),
         {:ok, program} <- Options.string(program, "the program that judges"),
         {:ok, inputs} <- Values.encode(opts[:inputs]),
         limits = Map.new(~w(output comment share usd_per_hour concurrency author)a, &{to_string(&1), opts[&1]}),
         message = Map.merge(limits, %{"judged" => judged, "name" => name, "program" => program, "inputs" => inputs}),
         {:ok, answer} <- Call.run(session, :add_judge, "Judges.Add", fn _session -> message end, opts[:timeout]),
         do: {:ok, pick(answer, @fields)}
  end

  @doc "Removes a judge; what waits or runs for it is finished. Options: `:author` and `:timeout`."
  @spec remove(Session.ref(), String.t(), atom | String.t(), keyword) :: :ok | {:error, Error.t()}
  def remove(session, judged, name, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @remove_schema),
         {:ok, judged} <- Options.string(judged, "the program that is judged"),
         {:ok, name} <- Options.name(name),
         message = %{"judged" => judged, "name" => name, "author" => opts[:author]},
         {:ok, _answer} <-
           Call.run(session, :remove_judge, "Judges.Remove", fn _session -> message end, opts[:timeout]),
         do: :ok
  end

  @doc "Like `list/2`, but returns the judges themselves or raises `DSPexFleet.Error`."
  @spec list!(Session.ref(), keyword) :: {[report], [{String.t(), String.t()}]}
  def list!(session, opts \\ []), do: session |> list(opts) |> Error.unwrap!()

  @doc "Like `add/5`, but returns the judge itself or raises `DSPexFleet.Error`."
  @spec add!(Session.ref(), String.t(), atom | String.t(), String.t(), keyword) :: judge
  def add!(session, judged, name, program, opts), do: session |> add(judged, name, program, opts) |> Error.unwrap!()

  defp report(message), do: message |> pick(@figures) |> Map.put(:judge, pick(message["judge"], @fields))
  defp pick(message, fields), do: Map.new(fields, &{&1, message[to_string(&1)]})
end
