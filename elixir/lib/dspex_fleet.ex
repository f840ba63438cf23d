defmodule DSPexFleet do
  @moduledoc """
  Predictions of DSPy programs on the fleet, steered by a session's variables.

      {:ok, ctx} = DSPexFleet.Context.start_link(session: "support")

      with {:ok, token} <- DSPexFleet.Variables.publish(ctx, llm_temperature: 0.9),
           {:ok, prediction} <- DSPexFleet.predict(ctx, "qa@prod", %{question: "Why is the sky blue?"}, at_least: token) do
        prediction.outputs["answer"]
      end

  Every function returns `{:ok, value}` or `{:error, %DSPexFleet.Error{}}` and has a twin with `!` that returns the value or
  raises. A connection that breaks comes back by itself, and a request that it cut off is sent again under the same id, so it
  is applied once.

  ## Telemetry

  | event | measurements | metadata |
  | --- | --- | --- |
  | `[:dspex_fleet, :call, :start]` | `:monotonic_time`, `:system_time` | `:operation`, `:session` |
  | `[:dspex_fleet, :call, :stop]` | `:duration`, `:monotonic_time` | `:operation`, `:session`, `:error` (`nil` or the error) |
  | `[:dspex_fleet, :call, :exception]` | `:duration`, `:monotonic_time` | `:operation`, `:session`, `:kind`, `:reason`, `:stacktrace` |
  | `[:dspex_fleet, :connection, :up]` | `:attempts` | `:connection`, `:target` |
  | `[:dspex_fleet, :connection, :down]` | | `:connection`, `:target`, `:reason` |
  | `[:dspex_fleet, :watch, :snapshot]` | `:staleness_s` | `:session`, `:token` |

  Operations are `:publish`, `:get`, `:history`, `:rollback`, `:submit`, `:submit_batch`, `:status`, `:await`, `:cancel`,
  `:register`, `:get_program` and `:list_programs`.
  """

  alias Dspex.Fleet.V1
  alias Dspex.Fleet.V1.Predictions.Stub
  alias DSPexFleet.{Call, Context, Error, Events, Handle, Prediction, Requirement, Values, Variable}

  @type inputs :: %{(atom | String.t()) => term} | keyword
  @type event ::
          {:state, Prediction.state()} | {:piece, field :: String.t(), text :: String.t()} | {:ended, Prediction.t()}

  @await_ms 60_000
  # One request waits no longer, whatever its caller does: proxies cut what is silent for a minute.
  @await_step_ms 25_000
  @submit_options [
    :at_least,
    :exactly,
    :deadline,
    :idempotency_key,
    :priority,
    :max_staleness,
    :outage,
    stream: false,
    timeout: Call.default_timeout()
  ]

  @doc """
  Submits a prediction and waits for it.

  Takes the options of `submit/4`, and `:await` for the milliseconds to wait for the result (60,000).
  """
  @spec predict(Context.t(), String.t(), inputs, keyword) :: {:ok, Prediction.t()} | {:error, Error.t()}
  def predict(context, program, inputs, opts \\ []) do
    {await, opts} = Keyword.pop(opts, :await, @await_ms)
    with {:ok, handle} <- submit(context, program, inputs, opts), do: await(handle, await)
  end

  @doc """
  Submits a prediction of `"name"`, `"name@label"` or `"name:version"` and returns its `DSPexFleet.Handle` at once.

    * `:at_least` – the token of a publish that the prediction must see; `:exactly` – the one state that it runs on.
    * `:deadline` – milliseconds from now within which an answer is of use; it fails after that.
    * `:idempotency_key` – requests of the same key and content are one prediction.
    * `:priority` – 1 to 9, the larger the sooner; 5 unless given.
    * `:max_staleness` – milliseconds since the variables were last confirmed, at most.
    * `:outage` – what becomes of it when Redis or the session's authority is away: `:fail`, or `{:serve_stale, milliseconds}`,
      which lets it run under variables that were confirmed that long ago; what the fleet says unless given.
    * `:stream` – whether `stream/1` carries the answer piece by piece while the LM writes it.
    * `:timeout` – milliseconds that submitting itself may take, 15,000 by default.
  """
  @spec submit(Context.t(), String.t(), inputs, keyword) :: {:ok, Handle.t()} | {:error, Error.t()}
  def submit(context, program, inputs, opts \\ []) do
    opts = Keyword.validate!(opts, @submit_options)
    key = opts[:idempotency_key] || Call.fresh_id()
    build = &request(&1, program, inputs, key, opts)

    with {:ok, wire} <- Call.run(context, :submit, {Stub, :submit}, build, opts[:timeout]) do
      {:ok, %Handle{id: wire.id, context: context}}
    end
  end

  @doc """
  Submits one prediction for each of the inputs in one request; the results stand in the same order.

  Each is `{:ok, handle}` or `{:error, error}`: one that is refused leaves the others be. Takes the options of `submit/4`; with
  an `:idempotency_key` the n-th input has the key `"key/n"`.
  """
  @spec submit_many(Context.t(), String.t(), [inputs], keyword) ::
          {:ok, [{:ok, Handle.t()} | {:error, Error.t()}]} | {:error, Error.t()}
  def submit_many(context, program, many, opts \\ []) do
    opts = Keyword.validate!(opts, @submit_options)
    key = opts[:idempotency_key] || Call.fresh_id()

    build = fn session ->
      one = fn {inputs, n} -> request(session, program, inputs, "#{key}/#{n}", opts) end

      with {:ok, requests} <- many |> Enum.with_index() |> Variable.gather(one),
           do: {:ok, %V1.SubmitBatchRequest{requests: requests}}
    end

    with {:ok, wire} <- Call.run(context, :submit_batch, {Stub, :submit_batch}, build, opts[:timeout]) do
      {:ok, Enum.map(wire.submitted, &submitted(&1, context))}
    end
  end

  @doc """
  Waits for a prediction to end, `timeout` milliseconds at most (60,000; `:infinity` too).

  Returns the prediction if it succeeded and its error if it failed or was cancelled. `"PredictionTimeoutError"` means that it goes
  on: await it again, or cancel it.
  """
  @spec await(Handle.t(), timeout) :: {:ok, Prediction.t()} | {:error, Error.t()}
  def await(%Handle{} = handle, timeout \\ @await_ms), do: await_until(handle, deadline(timeout))

  @doc """
  Streams what a prediction does, as `{:ok, event}` until `{:ok, {:ended, prediction}}` or `{:error, error}`.

  Events are `{:state, state}`, `{:piece, field, text}` with the next piece of an output field's text (of a prediction that was
  submitted with `stream: true`), and the end. The stream
  opens when it is read, from the prediction's beginning however late that is; one that its reader leaves is closed on the
  gateway, and the prediction goes on. Where the connection breaks, it goes on behind the last piece that came.
  """
  @spec stream(Handle.t()) :: Enumerable.t({:ok, event} | {:error, Error.t()})
  def stream(%Handle{} = handle), do: Events.stream(handle)

  @doc "Returns how a prediction stands, at once; one that failed is `{:ok, %DSPexFleet.Prediction{state: :failed}}` here."
  @spec status(Handle.t(), timeout) :: {:ok, Prediction.t()} | {:error, Error.t()}
  def status(%Handle{} = handle, timeout \\ Call.default_timeout()) do
    with {:ok, wire} <- Call.run(handle.context, :status, {Stub, :get}, asked(handle), timeout) do
      Prediction.from_wire(wire)
    end
  end

  @doc "Cancels a prediction and returns how it stands then; one that has ended stays as it is."
  @spec cancel(Handle.t(), timeout) :: {:ok, Prediction.t()} | {:error, Error.t()}
  def cancel(%Handle{} = handle, timeout \\ Call.default_timeout()) do
    with {:ok, wire} <- Call.run(handle.context, :cancel, {Stub, :cancel}, asked(handle), timeout) do
      Prediction.from_wire(wire)
    end
  end

  @doc "Like `predict/4`, but returns the prediction itself or raises `DSPexFleet.Error`."
  @spec predict!(Context.t(), String.t(), inputs, keyword) :: Prediction.t()
  def predict!(context, program, inputs, opts \\ []), do: context |> predict(program, inputs, opts) |> Error.unwrap!()

  @doc "Like `submit/4`, but returns the handle itself or raises `DSPexFleet.Error`."
  @spec submit!(Context.t(), String.t(), inputs, keyword) :: Handle.t()
  def submit!(context, program, inputs, opts \\ []), do: context |> submit(program, inputs, opts) |> Error.unwrap!()

  @doc "Like `submit_many/4`, but returns the handles themselves or raises the first `DSPexFleet.Error`."
  @spec submit_many!(Context.t(), String.t(), [inputs], keyword) :: [Handle.t()]
  def submit_many!(context, program, many, opts \\ []) do
    context |> submit_many(program, many, opts) |> Error.unwrap!() |> Enum.map(&Error.unwrap!/1)
  end

  @doc "Like `await/2`, but returns the prediction itself or raises `DSPexFleet.Error`."
  @spec await!(Handle.t(), timeout) :: Prediction.t()
  def await!(handle, timeout \\ @await_ms), do: handle |> await(timeout) |> Error.unwrap!()

  @doc "Like `stream/1`, but streams the events themselves and raises `DSPexFleet.Error`."
  @spec stream!(Handle.t()) :: Enumerable.t(event)
  def stream!(handle), do: handle |> stream() |> Stream.map(&Error.unwrap!/1)

  @doc "Like `status/2`, but returns the prediction itself or raises `DSPexFleet.Error`."
  @spec status!(Handle.t(), timeout) :: Prediction.t()
  def status!(handle, timeout \\ Call.default_timeout()), do: handle |> status(timeout) |> Error.unwrap!()

  @doc "Like `cancel/2`, but returns the prediction itself or raises `DSPexFleet.Error`."
  @spec cancel!(Handle.t(), timeout) :: Prediction.t()
  def cancel!(handle, timeout \\ Call.default_timeout()), do: handle |> cancel(timeout) |> Error.unwrap!()

  defp request(session, program, inputs, key, opts) do
    with {:ok, json} <- inputs |> Map.new() |> Values.encode() do
      {:ok,
       %V1.SubmitRequest{
         program: program,
         session: session,
         inputs_json: json,
         requirement: Requirement.of(opts),
         deadline_s: (opts[:deadline] || 0) / 1_000,
         idempotency_key: key,
         priority: opts[:priority] || 0,
         max_staleness_s: opts[:max_staleness] && opts[:max_staleness] / 1_000,
         stream: opts[:stream],
         outage: outage(opts[:outage])
       }}
    end
  end

  defp outage(nil), do: ""
  defp outage(:fail), do: "fail"
  defp outage({:serve_stale, milliseconds}), do: "serve_stale(#{milliseconds / 1_000})"

  defp submitted(%V1.Submitted{outcome: {:handle, wire}}, context), do: {:ok, %Handle{id: wire.id, context: context}}
  defp submitted(%V1.Submitted{outcome: {:error, wire}}, _context), do: {:error, Error.from_wire(wire)}

  defp await_until(handle, deadline) do
    step = deadline |> left() |> min(@await_step_ms) |> max(1)
    build = fn _session -> %V1.AwaitRequest{id: handle.id, timeout_s: step / 1_000} end

    with {:ok, wire} <- Call.run(handle.context, :await, {Stub, :await}, build, step + Call.default_timeout()),
         {:ok, prediction} <- Prediction.from_wire(wire) do
      cond do
        Prediction.ended?(prediction) -> Prediction.outcome(prediction)
        left(deadline) == 0 -> {:error, timed_out(prediction)}
        true -> await_until(handle, deadline)
      end
    end
  end

  defp timed_out(prediction) do
    Error.new(
      "PredictionTimeoutError",
      "prediction #{prediction.id} is #{prediction.state} still and goes on. Await it again, or cancel it.",
      fields: [prediction.id]
    )
  end

  defp asked(handle), do: fn _session -> %V1.PredictionRequest{id: handle.id} end

  defp deadline(:infinity), do: :infinity
  defp deadline(timeout), do: System.monotonic_time(:millisecond) + timeout

  # Atoms are above all numbers, so that the smaller of this and a number is the number.
  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)
end
