defmodule DSPexFleet.Rollout do
  @moduledoc """
  Rollouts: a session's revision, or a program's version, goes to a part of the traffic first and comes back by itself if
  it does harm.

      {:ok, rollout} = Rollout.start(session, session.id, %{llm_temperature: 1.8}, reason: "livelier answers")
      {:ok, ref} = Rollout.subscribe(session, rollout.target)

      receive do
        {:dspex_fleet, :rollout, %RolloutEvent{kind: :rolled_back} = event} -> Logger.warning(event.reason)
      end

  A target is a session, `"support"`, or a label of a program, `"qa@prod"`. The functions need a token with the scope
  `release`, or `admin`. Steps need a `:reason`, and an `:author` where the gateway asks for no token.

    * `:target` – what it stages: `"session:NAME"` or `"program:NAME@LABEL"`.
    * `:id` – unique; what `DSPexFleet.Assignment` assigns by.
    * `:state` – `:new` (no stage has begun), `:running`, `:paused`, `:rolled_back` or `:promoted`.
    * `:stage` – its number, from 1; 0 before the first.
    * `:share` – the candidate's part of the requests, from 0 to 1.
    * `:baseline`, `:candidate` – a session's tokens as strings, or a program's `"VERSION:DIGEST"`.
    * `:sequence` – grows with each change of the rollout.
  """

  alias DSPexFleet.{Call, Error, Options, RolloutWatch, Session, Values}

  @type state :: :new | :running | :paused | :rolled_back | :promoted | :unknown
  @type t :: %__MODULE__{
          target: String.t(),
          id: String.t(),
          state: state,
          stage: non_neg_integer,
          share: float,
          baseline: String.t(),
          candidate: String.t(),
          sequence: non_neg_integer
        }

  defstruct [:target, :id, :state, :stage, :share, :baseline, :candidate, :sequence]

  @states Map.new(~w(new running paused rolled_back promoted)a, &{to_string(&1), &1})

  @steps %{
    advance: {:advance_rollout, "Rollouts.Advance"},
    pause: {:pause_rollout, "Rollouts.Pause"},
    resume: {:resume_rollout, "Rollouts.Resume"},
    abort: {:abort_rollout, "Rollouts.Abort"}
  }

  @start_schema Options.call(
                  policy: [
                    type: Options.object(),
                    doc:
                      "Such as `%{stages: [%{share: 0.01}, %{share: 0.5}]}`; the session's own, or else the default one."
                  ],
                  author: [type: :string, default: ""],
                  reason: [type: :string, default: ""],
                  request_id: [type: :string, doc: "A request that is sent again under the same id is applied once."]
                )
  @step_schema Options.call(
                 reason: [type: :string, default: "", doc: "Why, which each step needs."],
                 author: [type: :string, default: ""],
                 request_id: [type: :string, doc: "A request that is sent again under the same id is applied once."]
               )
  @show_schema Options.call(
                 looks: [
                   type: {:in, 0..600},
                   doc: "Up to how many past looks at its guards the report has, spread evenly; none by default."
                 ]
               )
  @subscribe_schema NimbleOptions.new!(after: [type: :string, doc: "The position of an event that the caller has."])

  @doc """
  Starts a rollout; its first stage begins within seconds.

  The candidate of a session is a map of the variables that change, and that of a program the number of a version.

  #{NimbleOptions.docs(@start_schema)}
  """
  @spec start(Session.ref(), String.t(), map | keyword | pos_integer, keyword) :: {:ok, t} | {:error, Error.t()}
  def start(session, target, candidate, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @start_schema),
         {:ok, target} <- Options.string(target, "a target"),
         {:ok, candidate} <- candidate(candidate),
         {:ok, policy} <- policy(opts[:policy]) do
      message =
        Map.merge(candidate, %{
          "target" => target,
          "policy" => policy,
          "author" => opts[:author],
          "reason" => opts[:reason],
          "request_id" => opts[:request_id] || Call.fresh_id()
        })

      call(session, :start_rollout, "Rollouts.Start", message, opts[:timeout])
    end
  end

  @doc "Returns what is staged now, of the sessions that the token covers."
  @spec list(Session.ref(), timeout) :: {:ok, [t]} | {:error, Error.t()}
  def list(session, timeout \\ Call.default_timeout()) do
    with {:ok, answer} <- Call.run(session, :list_rollouts, "Rollouts.List", fn _session -> %{} end, timeout),
         do: {:ok, Enum.map(answer["rollouts"], &from_message/1)}
  end

  @doc """
  Returns how a target's rollout stands, or how the last one ended: the rollout, and the fleet's report as decoded JSON.

  The report has `"arms"` with what was counted of each, `"guards"` with what each says of them, `"outlook"` and `"events"`. With `:looks`
  it has `"looks"` too, oldest first: each has its time `"at"` in Unix seconds, its `"stage"`, and in `"guards"` what each guard said then.

  #{NimbleOptions.docs(@show_schema)}
  """
  @spec show(Session.ref(), String.t(), keyword) :: {:ok, {t, map}} | {:error, Error.t()}
  def show(session, target, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @show_schema),
         {:ok, target} <- Options.string(target, "a target"),
         build = fn _session -> %{"target" => target, "looks" => opts[:looks]} end,
         {:ok, answer} <- Call.run(session, :show_rollout, "Rollouts.Show", build, opts[:timeout]),
         do: {:ok, {from_message(answer["rollout"]), answer["report"]}}
  end

  @doc "Begins the next stage at once, or promotes the candidate after the last one. Options: `:reason`, `:author`, `:request_id` and `:timeout`."
  @spec advance(Session.ref(), String.t(), keyword) :: {:ok, t} | {:error, Error.t()}
  def advance(session, target, opts), do: step(session, :advance, target, opts)

  @doc "Pauses a rollout: the candidate keeps its share, and no other stage begins. Options as of `advance/3`."
  @spec pause(Session.ref(), String.t(), keyword) :: {:ok, t} | {:error, Error.t()}
  def pause(session, target, opts), do: step(session, :pause, target, opts)

  @doc "Resumes a paused rollout. Options as of `advance/3`."
  @spec resume(Session.ref(), String.t(), keyword) :: {:ok, t} | {:error, Error.t()}
  def resume(session, target, opts), do: step(session, :resume, target, opts)

  @doc "Rolls a rollout back: everybody stays with the baseline. Options as of `advance/3`."
  @spec abort(Session.ref(), String.t(), keyword) :: {:ok, t} | {:error, Error.t()}
  def abort(session, target, opts), do: step(session, :abort, target, opts)

  @doc """
  Sends the calling process what has happened to a target's rollouts, and then each new event; returns a reference.

    * `{:dspex_fleet, :rollout, %DSPexFleet.RolloutEvent{}}` – an event; each comes once and in order.
    * `{:dspex_fleet, ref, {:interrupted, %DSPexFleet.Error{}}}` – interrupted; it resumes automatically behind the last event.
    * `{:dspex_fleet, ref, {:ended, %DSPexFleet.Error{}}}` – rejected permanently, such as for a missing scope.

  It ends with `unsubscribe/1` or with the subscriber. Option: `:after` for the position of an event that the caller has.
  """
  @spec subscribe(Session.ref(), String.t(), keyword) :: {:ok, reference} | {:error, Error.t()}
  def subscribe(session, target, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @subscribe_schema),
         {:ok, target} <- Options.string(target, "a target"),
         {:ok, session} <- Session.resolve(session),
         do: RolloutWatch.start(session, target, opts[:after])
  end

  @doc "Ends a subscription; of its events, those that were sent before are still in the mailbox."
  @spec unsubscribe(reference) :: :ok
  def unsubscribe(ref), do: RolloutWatch.stop(ref)

  @doc "Like `start/4`, but returns the rollout itself or raises `DSPexFleet.Error`."
  @spec start!(Session.ref(), String.t(), map | keyword | pos_integer, keyword) :: t
  def start!(session, target, candidate, opts \\ []), do: session |> start(target, candidate, opts) |> Error.unwrap!()

  @doc "Like `list/2`, but returns the rollouts themselves or raises `DSPexFleet.Error`."
  @spec list!(Session.ref(), timeout) :: [t]
  def list!(session, timeout \\ Call.default_timeout()), do: session |> list(timeout) |> Error.unwrap!()

  @doc "Like `show/3`, but returns rollout and report themselves or raises `DSPexFleet.Error`."
  @spec show!(Session.ref(), String.t(), keyword) :: {t, map}
  def show!(session, target, opts \\ []), do: session |> show(target, opts) |> Error.unwrap!()

  @doc "Like `advance/3`, but returns the rollout itself or raises `DSPexFleet.Error`."
  @spec advance!(Session.ref(), String.t(), keyword) :: t
  def advance!(session, target, opts), do: session |> advance(target, opts) |> Error.unwrap!()

  @doc "Like `pause/3`, but returns the rollout itself or raises `DSPexFleet.Error`."
  @spec pause!(Session.ref(), String.t(), keyword) :: t
  def pause!(session, target, opts), do: session |> pause(target, opts) |> Error.unwrap!()

  @doc "Like `resume/3`, but returns the rollout itself or raises `DSPexFleet.Error`."
  @spec resume!(Session.ref(), String.t(), keyword) :: t
  def resume!(session, target, opts), do: session |> resume(target, opts) |> Error.unwrap!()

  @doc "Like `abort/3`, but returns the rollout itself or raises `DSPexFleet.Error`."
  @spec abort!(Session.ref(), String.t(), keyword) :: t
  def abort!(session, target, opts), do: session |> abort(target, opts) |> Error.unwrap!()

  @doc "Like `subscribe/3`, but returns the reference itself or raises `DSPexFleet.Error`."
  @spec subscribe!(Session.ref(), String.t(), keyword) :: reference
  def subscribe!(session, target, opts \\ []), do: session |> subscribe(target, opts) |> Error.unwrap!()

  @doc false
  @spec from_message(map | nil) :: t | nil
  def from_message(nil), do: nil

  def from_message(message) do
    fields = Map.new(~w(target id stage share baseline candidate sequence)a, &{&1, message[to_string(&1)]})
    struct!(__MODULE__, Map.put(fields, :state, Map.get(@states, message["state"], :unknown)))
  end

  defp step(session, step, target, opts) do
    with {:ok, opts} <- Options.validate(opts, @step_schema), {:ok, target} <- Options.string(target, "a target") do
      message = %{
        "target" => target,
        "author" => opts[:author],
        "reason" => opts[:reason],
        "request_id" => opts[:request_id] || Call.fresh_id()
      }

      {name, operation} = Map.fetch!(@steps, step)
      call(session, name, operation, message, opts[:timeout])
    end
  end

  defp call(session, name, operation, message, timeout) do
    with {:ok, answer} <- Call.run(session, name, operation, fn _session -> message end, timeout),
         do: {:ok, from_message(answer)}
  end

  defp candidate(version) when is_integer(version) and version > 0, do: {:ok, %{"version" => version}}

  defp candidate(values) do
    with {:ok, encoded} <- Values.encode_object(values, "the candidate of a session"), do: {:ok, %{"values" => encoded}}
  end

  defp policy(nil), do: {:ok, nil}
  defp policy(policy), do: Values.encode(policy)
end
