defmodule DSPexFleet.Experiment do
  @moduledoc """
  Experiments: a target's requests are divided between revisions, until somebody decides which of them is best.

      {:ok, _experiment} =
        Experiment.start(session, session.id, "tone", [
          %{name: "formal", weight: 0.5, revision: formal},
          %{name: "casual", weight: 0.5, revision: casual}
        ])

      {:ok, {experiment, report}} = Experiment.show(session, session.id, "tone")
      {:ok, _experiment} = Experiment.decide(session, session.id, "tone", "casual", reason: "scores higher")

  A target is a session, or a label of a program, as of `DSPexFleet.Rollout`. The functions need a token with the scope
  `release`, or `admin`.

    * `:target`, `:name`, `:id` – what it divides, its name among those of the target, and what keys are assigned by.
    * `:state` – `:running`, `:decided` or `:stopped`.
    * `:arms` – each a map of `:name`, `:weight` (they sum to 1) and `:revision`.
    * `:from_share`, `:to_share` – its range of the target's requests, from 0 to 1.
    * `:segment` – a JSON schema for the attributes of requests that take part, or nil for all of them.
    * `:winner` – the arm that was decided for, or nil.
  """

  alias DSPexFleet.{Call, Error, Options, Session, Snapshot, Token, Values, Variable}

  @type state :: :running | :decided | :stopped | :unknown
  @type arm :: %{name: String.t(), weight: float, revision: String.t()}
  @type event :: %{
          kind: :started | :decided | :stopped | :unknown,
          experiment: t,
          author: String.t(),
          reason: String.t(),
          at: DateTime.t() | nil,
          position: String.t()
        }
  @type t :: %__MODULE__{
          target: String.t(),
          name: String.t(),
          id: String.t(),
          state: state,
          arms: [arm],
          from_share: float,
          to_share: float,
          segment: map | nil,
          winner: String.t() | nil
        }

  defstruct [:target, :name, :id, :state, :from_share, :to_share, :segment, :winner, arms: []]

  @states Map.new(~w(running decided stopped)a, &{to_string(&1), &1})
  @kinds Map.new(~w(started decided stopped)a, &{to_string(&1), &1})

  @step [
    reason: [type: :string, default: "", doc: "Why, which the history has."],
    author: [type: :string, default: "", doc: "Who, where the gateway asks for no token."],
    request_id: [type: :string, doc: "A request that is sent again under the same id is applied once."]
  ]
  @start_schema Options.call(
                  @step ++
                    [
                      from_share: [type: {:or, [:float, {:in, [0, 1]}]}, default: 0.0],
                      to_share: [type: {:or, [:float, {:in, [0, 1]}]}, default: 1.0],
                      segment: [
                        type: Options.object(),
                        doc: "A JSON schema for the attributes of requests that take part; all by default."
                      ]
                    ]
                )
  @step_schema Options.call(@step)
  @events_schema Options.call(
                   after: [type: :string, doc: "The position of an event: only those behind it are returned."],
                   limit: [type: {:in, 1..1_000}, default: 100]
                 )

  @doc """
  Divides a target's requests between arms, each a map of `:name`, `:weight` and `:revision` (a session's token, label or
  `"latest"`, or the number of a program's version).

  #{NimbleOptions.docs(@start_schema)}
  """
  @spec start(Session.ref(), String.t(), String.t(), [map], keyword) :: {:ok, t} | {:error, Error.t()}
  def start(session, target, name, arms, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @start_schema),
         {:ok, target} <- Options.string(target, "a target"),
         {:ok, name} <- Options.name(name),
         {:ok, arms} <- arm_messages(arms),
         {:ok, segment} <- segment(opts[:segment]) do
      message =
        Map.merge(step_message(target, opts), %{
          "name" => name,
          "arms" => arms,
          "from_share" => opts[:from_share],
          "to_share" => opts[:to_share],
          "segment" => segment
        })

      one(session, :start_experiment, "Experiments.Start", message, opts[:timeout])
    end
  end

  @doc "Returns the experiments that run on a target, or for `:all` on all that the token covers."
  @spec list(Session.ref(), String.t() | :all, timeout) :: {:ok, [t]} | {:error, Error.t()}
  def list(session, target, timeout \\ Call.default_timeout()) do
    with {:ok, message} <- list_message(target),
         {:ok, answer} <- call(session, :list_experiments, "Experiments.List", message, timeout),
         do: {:ok, Enum.map(answer["experiments"], &from_message/1)}
  end

  defp list_message(:all), do: {:ok, %{}}

  defp list_message(target) do
    with {:ok, target} <- Options.string(target, "a target"), do: {:ok, %{"target" => target}}
  end

  @doc """
  Returns how an experiment stands, or how the last one of its name ended: the experiment, and the fleet's report as decoded
  JSON.
  """
  @spec show(Session.ref(), String.t(), String.t(), timeout) :: {:ok, {t, map}} | {:error, Error.t()}
  def show(session, target, name, timeout \\ Call.default_timeout()) do
    with {:ok, target} <- Options.string(target, "a target"),
         {:ok, name} <- Options.name(name),
         message = %{"target" => target, "experiment" => name},
         {:ok, answer} <- call(session, :show_experiment, "Experiments.Show", message, timeout),
         do: {:ok, {from_message(answer["experiment"]), answer["report"]}}
  end

  @doc """
  Returns what has happened to a target's experiments, oldest first.

  #{NimbleOptions.docs(@events_schema)}
  """
  @spec events(Session.ref(), String.t(), keyword) :: {:ok, [event]} | {:error, Error.t()}
  def events(session, target, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @events_schema),
         {:ok, target} <- Options.string(target, "a target"),
         message = %{"target" => target, "after" => opts[:after], "limit" => opts[:limit]},
         {:ok, answer} <- call(session, :experiment_events, "Experiments.Events", message, opts[:timeout]),
         do: {:ok, Enum.map(answer["events"], &event/1)}
  end

  @doc """
  Ends an experiment, and gives everybody the revision of one of its arms.

  #{NimbleOptions.docs(@step_schema)}
  """
  @spec decide(Session.ref(), String.t(), String.t(), String.t(), keyword) :: {:ok, t} | {:error, Error.t()}
  def decide(session, target, name, arm, opts \\ []) do
    with {:ok, arm} <- Options.name(arm),
         do: step(session, :decide_experiment, "Experiments.Decide", {target, name}, %{"arm" => arm}, opts)
  end

  @doc "Ends an experiment without a decision: everybody gets what the target stands for. Options as of `decide/5`."
  @spec stop(Session.ref(), String.t(), String.t(), keyword) :: {:ok, t} | {:error, Error.t()}
  def stop(session, target, name, opts \\ []),
    do: step(session, :stop_experiment, "Experiments.Stop", {target, name}, %{}, opts)

  @doc "Like `start/5`, but returns the experiment itself or raises `DSPexFleet.Error`."
  @spec start!(Session.ref(), String.t(), String.t(), [map], keyword) :: t
  def start!(session, target, name, arms, opts \\ []),
    do: session |> start(target, name, arms, opts) |> Error.unwrap!()

  @doc "Like `list/3`, but returns the experiments themselves or raises `DSPexFleet.Error`."
  @spec list!(Session.ref(), String.t() | :all, timeout) :: [t]
  def list!(session, target, timeout \\ Call.default_timeout()), do: session |> list(target, timeout) |> Error.unwrap!()

  @doc "Like `show/4`, but returns experiment and report themselves or raises `DSPexFleet.Error`."
  @spec show!(Session.ref(), String.t(), String.t(), timeout) :: {t, map}
  def show!(session, target, name, timeout \\ Call.default_timeout()),
    do: session |> show(target, name, timeout) |> Error.unwrap!()

  @doc "Like `events/3`, but returns the events themselves or raises `DSPexFleet.Error`."
  @spec events!(Session.ref(), String.t(), keyword) :: [event]
  def events!(session, target, opts \\ []), do: session |> events(target, opts) |> Error.unwrap!()

  @doc "Like `decide/5`, but returns the experiment itself or raises `DSPexFleet.Error`."
  @spec decide!(Session.ref(), String.t(), String.t(), String.t(), keyword) :: t
  def decide!(session, target, name, arm, opts \\ []),
    do: session |> decide(target, name, arm, opts) |> Error.unwrap!()

  @doc "Like `stop/4`, but returns the experiment itself or raises `DSPexFleet.Error`."
  @spec stop!(Session.ref(), String.t(), String.t(), keyword) :: t
  def stop!(session, target, name, opts \\ []), do: session |> stop(target, name, opts) |> Error.unwrap!()

  @doc false
  @spec from_message(map) :: t
  def from_message(message) do
    %__MODULE__{
      target: message["target"],
      name: message["name"],
      id: message["id"],
      state: Map.get(@states, message["state"], :unknown),
      arms:
        Enum.map(message["arms"], &Map.new(~w(name weight revision)a, fn field -> {field, &1[to_string(field)]} end)),
      from_share: message["from_share"],
      to_share: message["to_share"],
      segment: message["segment"],
      winner: if(message["winner"] != "", do: message["winner"])
    }
  end

  defp event(message) do
    %{
      kind: Map.get(@kinds, message["kind"], :unknown),
      experiment: from_message(message["experiment"]),
      author: message["author"],
      reason: message["reason"],
      at: Snapshot.time(message["at"]),
      position: message["position"]
    }
  end

  defp step(session, name, operation, {target, experiment}, fields, opts) do
    with {:ok, opts} <- Options.validate(opts, @step_schema),
         {:ok, target} <- Options.string(target, "a target"),
         {:ok, experiment} <- Options.name(experiment) do
      message = target |> step_message(opts) |> Map.merge(fields) |> Map.put("experiment", experiment)
      one(session, name, operation, message, opts[:timeout])
    end
  end

  defp step_message(target, opts) do
    %{
      "target" => target,
      "author" => opts[:author],
      "reason" => opts[:reason],
      "request_id" => opts[:request_id] || Call.fresh_id()
    }
  end

  defp one(session, name, operation, message, timeout) do
    with {:ok, answer} <- call(session, name, operation, message, timeout), do: {:ok, from_message(answer)}
  end

  defp call(session, name, operation, message, timeout),
    do: Call.run(session, name, operation, fn _session -> message end, timeout)

  defp arm_messages(arms) when is_list(arms), do: Variable.traverse(arms, &arm_message/1)
  defp arm_messages(other), do: {:error, Error.new(:invalid_value, "expected arms as a list, got: #{inspect(other)}")}

  defp arm_message(%{name: name, weight: weight, revision: revision}) when is_number(weight) do
    with {:ok, name} <- Options.name(name),
         {:ok, revision} <- revision(revision),
         do: {:ok, %{"name" => name, "weight" => weight, "revision" => revision}}
  end

  defp arm_message(other) do
    {:error, Error.new(:invalid_value, "expected an arm with :name, :weight and :revision, got: #{inspect(other)}")}
  end

  defp revision(%Token{} = token), do: {:ok, to_string(token)}
  defp revision(version) when is_integer(version), do: {:ok, Integer.to_string(version)}
  defp revision(text), do: Options.string(text, "a revision")

  defp segment(nil), do: {:ok, nil}
  defp segment(schema), do: Values.encode(schema)
end
