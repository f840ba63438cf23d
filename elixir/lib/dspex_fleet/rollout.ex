defmodule DSPexFleet.Rollout do
  @moduledoc """
  Rollouts: a session's revision, or a program's version, goes to a part of the traffic first and comes back by itself if
  it does harm.

      {:ok, rollout} = Rollout.start(ctx, Context.session(ctx), %{llm_temperature: 1.8}, reason: "livelier answers")
      {:ok, ref} = Rollout.subscribe(ctx, rollout.target)

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

  alias Dspex.Fleet.V1
  alias Dspex.Fleet.V1.Rollouts.Stub
  alias DSPexFleet.{Call, Context, Error, Values}

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

  @states %{
    ROLLOUT_STATE_NEW: :new,
    ROLLOUT_STATE_RUNNING: :running,
    ROLLOUT_STATE_PAUSED: :paused,
    ROLLOUT_STATE_ROLLED_BACK: :rolled_back,
    ROLLOUT_STATE_PROMOTED: :promoted
  }

  @step_options [:reason, :request_id, author: "", timeout: Call.default_timeout()]

  @doc """
  Starts a rollout; its first stage begins within seconds.

  The candidate of a session is a map of the variables that change, and that of a program the number of a version.
  Options: `:policy` (a map such as `%{stages: [%{share: 0.01}, %{share: 0.5}]}`; the session's own, or else the default
  one), `:author`, `:reason`, `:request_id` and `:timeout`.
  """
  @spec start(Context.t(), String.t(), map | keyword | pos_integer, keyword) :: {:ok, t} | {:error, Error.t()}
  def start(context, target, candidate, opts \\ []) do
    opts =
      Keyword.validate!(opts, [:policy, :request_id, author: "", reason: "", timeout: Call.default_timeout()])

    request_id = opts[:request_id] || Call.fresh_id()

    build = fn _session ->
      with {:ok, candidate} <- candidate(candidate), {:ok, policy} <- policy(opts[:policy]) do
        {:ok,
         %V1.StartRolloutRequest{
           target: target,
           candidate: candidate,
           policy_json: policy,
           author: opts[:author],
           reason: opts[:reason],
           request_id: request_id
         }}
      end
    end

    call(context, :start_rollout, :start, build, opts[:timeout])
  end

  @doc "Returns what is staged now, of the sessions that the token covers."
  @spec list(Context.t(), timeout) :: {:ok, [t]} | {:error, Error.t()}
  def list(context, timeout \\ Call.default_timeout()) do
    build = fn _session -> %V1.ListRolloutsRequest{} end

    with {:ok, wire} <- Call.run(context, :list_rollouts, {Stub, :list}, build, timeout),
         do: {:ok, Enum.map(wire.rollouts, &from_wire/1)}
  end

  @doc """
  Returns how a target's rollout stands, or how the last one ended: the rollout, and the fleet's report as decoded JSON.

  The report has `"arms"` with what was counted of each, `"guards"` with what each says of them, `"outlook"` and `"events"`.
  """
  @spec show(Context.t(), String.t(), timeout) :: {:ok, {t, map}} | {:error, Error.t()}
  def show(context, target, timeout \\ Call.default_timeout()) do
    build = fn _session -> %V1.ShowRolloutRequest{target: target} end

    with {:ok, wire} <- Call.run(context, :show_rollout, {Stub, :show}, build, timeout),
         {:ok, report} <- Values.decode(wire.report_json),
         do: {:ok, {from_wire(wire.rollout), report}}
  end

  @doc "Begins the next stage at once, or promotes the candidate after the last one. Options: `:reason`, `:author`, `:timeout`."
  @spec advance(Context.t(), String.t(), keyword) :: {:ok, t} | {:error, Error.t()}
  def advance(context, target, opts), do: step(context, :advance, target, opts)

  @doc "Pauses a rollout: the candidate keeps its share, and no other stage begins. Options as of `advance/3`."
  @spec pause(Context.t(), String.t(), keyword) :: {:ok, t} | {:error, Error.t()}
  def pause(context, target, opts), do: step(context, :pause, target, opts)

  @doc "Resumes a paused rollout. Options as of `advance/3`."
  @spec resume(Context.t(), String.t(), keyword) :: {:ok, t} | {:error, Error.t()}
  def resume(context, target, opts), do: step(context, :resume, target, opts)

  @doc "Rolls a rollout back: everybody stays with the baseline. Options as of `advance/3`."
  @spec abort(Context.t(), String.t(), keyword) :: {:ok, t} | {:error, Error.t()}
  def abort(context, target, opts), do: step(context, :abort, target, opts)

  @doc """
  Sends the calling process what has happened to a target's rollouts, and then each new event; returns a reference.

    * `{:dspex_fleet, :rollout, %DSPexFleet.RolloutEvent{}}` – an event; each comes once and in order.
    * `{:dspex_fleet, ref, {:interrupted, %DSPexFleet.Error{}}}` – interrupted; it resumes automatically behind the last event.
    * `{:dspex_fleet, ref, {:ended, %DSPexFleet.Error{}}}` – rejected permanently, such as for a missing scope.

  It ends with `unsubscribe/2`, with the subscriber or with the context. Options: `:after` for the position of an event that
  the caller already has, `:subscriber` for another process.
  """
  @spec subscribe(Context.t(), String.t(), keyword) :: {:ok, reference} | {:error, Error.t()}
  def subscribe(context, target, opts \\ []) do
    opts = Keyword.validate!(opts, [:after, subscriber: self()])
    Context.start_watch(context, [source: DSPexFleet.Watch.Rollouts, target: target] ++ opts)
  end

  @doc "Ends a subscription; of its events, those that were sent before are still in the mailbox."
  @spec unsubscribe(Context.t(), reference) :: :ok | {:error, Error.t()}
  def unsubscribe(context, ref), do: Context.stop_watch(context, ref)

  @doc "Like `start/4`, but returns the rollout itself or raises `DSPexFleet.Error`."
  @spec start!(Context.t(), String.t(), map | keyword | pos_integer, keyword) :: t
  def start!(context, target, candidate, opts \\ []), do: context |> start(target, candidate, opts) |> Error.unwrap!()

  @doc "Like `list/2`, but returns the rollouts themselves or raises `DSPexFleet.Error`."
  @spec list!(Context.t(), timeout) :: [t]
  def list!(context, timeout \\ Call.default_timeout()), do: context |> list(timeout) |> Error.unwrap!()

  @doc "Like `show/3`, but returns rollout and report themselves or raises `DSPexFleet.Error`."
  @spec show!(Context.t(), String.t(), timeout) :: {t, map}
  def show!(context, target, timeout \\ Call.default_timeout()), do: context |> show(target, timeout) |> Error.unwrap!()

  @doc "Like `advance/3`, but returns the rollout itself or raises `DSPexFleet.Error`."
  @spec advance!(Context.t(), String.t(), keyword) :: t
  def advance!(context, target, opts), do: context |> advance(target, opts) |> Error.unwrap!()

  @doc "Like `pause/3`, but returns the rollout itself or raises `DSPexFleet.Error`."
  @spec pause!(Context.t(), String.t(), keyword) :: t
  def pause!(context, target, opts), do: context |> pause(target, opts) |> Error.unwrap!()

  @doc "Like `resume/3`, but returns the rollout itself or raises `DSPexFleet.Error`."
  @spec resume!(Context.t(), String.t(), keyword) :: t
  def resume!(context, target, opts), do: context |> resume(target, opts) |> Error.unwrap!()

  @doc "Like `abort/3`, but returns the rollout itself or raises `DSPexFleet.Error`."
  @spec abort!(Context.t(), String.t(), keyword) :: t
  def abort!(context, target, opts), do: context |> abort(target, opts) |> Error.unwrap!()

  @doc "Like `subscribe/3`, but returns the reference itself or raises `DSPexFleet.Error`."
  @spec subscribe!(Context.t(), String.t(), keyword) :: reference
  def subscribe!(context, target, opts \\ []), do: context |> subscribe(target, opts) |> Error.unwrap!()

  @doc false
  @spec from_wire(V1.Rollout.t() | nil) :: t | nil
  def from_wire(nil), do: nil

  def from_wire(%V1.Rollout{} = wire) do
    fields = Map.take(wire, [:target, :id, :stage, :share, :baseline, :candidate, :sequence])
    struct!(__MODULE__, Map.put(fields, :state, Map.get(@states, wire.state, :unknown)))
  end

  defp step(context, step, target, opts) do
    opts = Keyword.validate!(opts, @step_options)
    request_id = opts[:request_id] || Call.fresh_id()

    build = fn _session ->
      %V1.StepRolloutRequest{
        target: target,
        author: opts[:author],
        reason: opts[:reason] || "",
        request_id: request_id
      }
    end

    call(context, :"#{step}_rollout", step, build, opts[:timeout])
  end

  defp call(context, operation, rpc, build, timeout) do
    with {:ok, wire} <- Call.run(context, operation, {Stub, rpc}, build, timeout), do: {:ok, from_wire(wire)}
  end

  defp candidate(version) when is_integer(version), do: {:ok, {:version, version}}

  defp candidate(values) do
    with {:ok, json} <- values |> Map.new() |> Values.encode(), do: {:ok, {:values_json, json}}
  end

  defp policy(nil), do: {:ok, ""}
  defp policy(policy), do: policy |> Map.new() |> Values.encode()
end
