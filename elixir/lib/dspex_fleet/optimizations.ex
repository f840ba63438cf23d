defmodule DSPexFleet.Optimizations do
  @moduledoc """
  Optimizations: DSPy's optimizers, which run as jobs on workers and register what they find as a program's newest version.

      {:ok, job} =
        Optimizations.start(session, "qa", "train", "answer_exact_match", optimizer: "BootstrapFewShot", valset: "golden", max_usd: 5)

      {:ok, %{result: record}} = DSPexFleet.Jobs.await(session, job.id)

  The new version has the label `candidate`, ready for `DSPexFleet.Rollout.start/4`. It needs a token for
  all sessions with the scope `admin`.
  """

  alias DSPexFleet.{Call, Error, Job, Jobs, Options, Session, Values}

  @number {:or, [:float, :pos_integer]}
  @start_schema Options.call(
                  optimizer: [
                    type: :string,
                    required: true,
                    doc:
                      "The name of one of DSPy's optimizers, or the import path of a class in a package that the workers allow."
                  ],
                  options: [type: Options.object(), doc: "What its constructor takes; LMs are named by their profiles."],
                  compile_options: [type: Options.object(), doc: "What its `compile` takes."],
                  valset: [type: :string, default: "", doc: "The dataset that candidates are measured on."],
                  max_predictions: [type: :pos_integer, doc: "Where it ends, with the best program so far."],
                  max_usd: [type: @number, doc: "Where it ends, too."],
                  max_s: [type: @number, doc: "Where it ends, too."],
                  in_flight: [type: :pos_integer, doc: "Predictions at a time; 100 by default."],
                  priority: [type: {:in, 0..9}, doc: "Of its predictions: 0 to 9, 9 being the most urgent. Default 0."],
                  lm: [
                    type: :string,
                    default: "",
                    doc: "The LM profile that the optimizer itself asks; the default one by default."
                  ],
                  label: [
                    type: :string,
                    doc: "What points at the new version: `\"candidate\"` by default, and nothing for `\"\"`."
                  ],
                  author: [type: :string, default: "", doc: "Who, where the gateway asks for no token."],
                  request_id: [type: :string, doc: "A request that is sent again under the same id is the same job."]
                )
  @plain ~w(optimizer valset max_predictions max_usd max_s in_flight priority lm label author)a

  @doc """
  Starts an optimizer for a program on a dataset and returns its job, whose result is the optimization's record.

  The metric is `"package.module:function"` in a package that the workers allow, or the name of one of DSPy's own. The variables are
  those of the session.

  #{NimbleOptions.docs(@start_schema)}
  """
  @spec start(Session.ref(), String.t(), String.t(), String.t(), keyword) :: {:ok, Job.t()} | {:error, Error.t()}
  def start(session, program, trainset, metric, opts) do
    with {:ok, opts} <- Options.validate(opts, @start_schema),
         {:ok, program} <- Options.string(program, "a program"),
         {:ok, trainset} <- Options.string(trainset, "a dataset"),
         {:ok, metric} <- Options.string(metric, "a metric"),
         {:ok, options} <- encode(opts[:options]),
         {:ok, compile_options} <- encode(opts[:compile_options]) do
      message = %{
        "program" => program,
        "trainset" => trainset,
        "metric" => metric,
        "options" => options,
        "compile_options" => compile_options,
        "request_id" => opts[:request_id] || Call.fresh_id()
      }

      message = Enum.reduce(@plain, message, &Map.put(&2, to_string(&1), opts[&1]))
      build = &Map.put(message, "session", &1.id)
      Jobs.start(session, :start_optimization, "Optimizations.Start", build, opts[:timeout])
    end
  end

  @doc "Like `start/5`, but returns the job itself or raises `DSPexFleet.Error`."
  @spec start!(Session.ref(), String.t(), String.t(), String.t(), keyword) :: Job.t()
  def start!(session, program, trainset, metric, opts),
    do: session |> start(program, trainset, metric, opts) |> Error.unwrap!()

  defp encode(nil), do: {:ok, nil}
  defp encode(options), do: Values.encode_object(options, "an optimizer's options")
end
