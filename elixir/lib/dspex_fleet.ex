defmodule DSPexFleet do
  @moduledoc """
  Predictions of DSPy programs on the fleet, steered by a session's variables.

      {:ok, ctx} = DSPexFleet.Context.start_link(session: "support")

      with {:ok, token} <- DSPexFleet.Variables.publish(ctx, llm_temperature: 0.9),
           {:ok, prediction} <- DSPexFleet.predict(ctx, "qa@prod", %{question: "Why is the sky blue?"}, at_least: token) do
        prediction.outputs["answer"]
      end

  Every function returns `{:ok, value}` or `{:error, %DSPexFleet.Error{}}` and has a variant with `!` that returns the value
  or raises. A lost connection is re-established automatically, and interrupted requests are sent again under the same id,
  so that each is applied once.

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
  `:register`, `:get_program`, `:list_programs`, and `:start_rollout`, `:list_rollouts`, `:show_rollout`,
  `:advance_rollout`, `:pause_rollout`, `:resume_rollout` and `:abort_rollout`.

  Where the application has `opentelemetry_api`, every request continues the trace of its process's current span; the
  fleet's own spans stand below it. `submit/4` takes a `:traceparent` as well.
  """

  alias Dspex.Fleet.V1
  alias Dspex.Fleet.V1.Predictions.Stub
  alias DSPexFleet.{Call, Context, Error, Handle, Prediction, PredictionStream, Requirement, Values, Variable}

  @type inputs :: %{(atom | String.t()) => term} | keyword
  @type event ::
          {:state, Prediction.state()} | {:piece, field :: String.t(), text :: String.t()} | {:ended, Prediction.t()}

  @await_ms 60_000
  # The longest wait of one request, whatever the caller's timeout: proxies close connections that stay silent.
  @await_step_ms 25_000
  @submit_options [
    :at_least,
    :exactly,
    :deadline,
    :idempotency_key,
    :priority,
    :max_staleness,
    :outage,
    :key,
    :attributes,
    :traceparent,
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

    * `:at_least` – the token of a publish that the prediction must see; `:exactly` – the token that it must run on.
    * `:deadline` – milliseconds from now after which the prediction fails.
    * `:idempotency_key` – requests with the same key and content are one prediction.
    * `:priority` – 1 to 9, 9 being the most urgent. Default 5.
    * `:max_staleness` – maximum milliseconds since the variables were last confirmed.
    * `:outage` – how to proceed while Redis or the session's authority is unavailable: `:fail`, or
      `{:serve_stale, milliseconds}` to run on variables that were confirmed at most that long ago. The fleet's setting by
      default.
    * `:key` – what rollouts and experiments assign the prediction by, such as a user's id: the same key gets the same arm.
      By default the prediction's own id.
    * `:attributes` – what is known of the request's origin, such as `%{plan: "pro"}`, for experiments on a segment.
    * `:stream` – whether `stream/1` delivers the output in pieces while the LM generates it. Default `false`.
    * `:timeout` – milliseconds that submitting may take. Default 15,000.
    * `:traceparent` – the W3C trace context that the prediction's trace continues; a malformed one is ignored. By default
      that of the process's current span, if the application has `opentelemetry_api`.
  """
  @spec submit(Context.t(), String.t(), inputs, keyword) :: {:ok, Handle.t()} | {:error, Error.t()}
  def submit(context, program, inputs, opts \\ []) do
    opts = Keyword.validate!(opts, @submit_options)
    key = opts[:idempotency_key] || Call.fresh_id()
    build = &request(&1, program, inputs, key, opts)

    with {:ok, wire} <- run(context, :submit, build, opts) do
      {:ok, %Handle{id: wire.id, context: context}}
    end
  end

  @doc """
  Submits one prediction for each of the inputs in one request; the results are in the same order.

  Each is `{:ok, handle}` or `{:error, error}`: a rejected one doesn't affect the others. Takes the options of `submit/4`;
  with an `:idempotency_key`, the n-th input has the key `"key/n"`.
  """
  @spec submit_many(Context.t(), String.t(), [inputs], keyword) ::
          {:ok, [{:ok, Handle.t()} | {:error, Error.t()}]} | {:error, Error.t()}
  def submit_many(context, program, many, opts \\ []) do
    opts = Keyword.validate!(opts, @submit_options)
    key = opts[:idempotency_key] || Call.fresh_id()

    build = fn session ->
      to_request = fn {inputs, n} -> request(session, program, inputs, "#{key}/#{n}", opts) end

      with {:ok, requests} <- many |> Enum.with_index() |> Variable.traverse(to_request),
           do: {:ok, %V1.SubmitBatchRequest{requests: requests}}
    end

    with {:ok, wire} <- run(context, :submit_batch, build, opts) do
      {:ok, Enum.map(wire.submitted, &submitted(&1, context))}
    end
  end

  @doc """
  Waits for a prediction to end, for at most `timeout` milliseconds (default 60,000) or `:infinity`.

  Returns the prediction if it succeeded and its error if it failed or was cancelled. After `:prediction_timeout` it
  is still running: await it again, or cancel it.
  """
  @spec await(Handle.t(), timeout) :: {:ok, Prediction.t()} | {:error, Error.t()}
  def await(%Handle{} = handle, timeout \\ @await_ms), do: await_until(handle, deadline(timeout))

  @doc """
  Streams the progress of a prediction as `{:ok, event}`, until `{:ok, {:ended, prediction}}` or `{:error, error}`.

  Events are `{:state, state}`, `{:piece, field, text}` with the next piece of an output field's text (of a prediction
  submitted with `stream: true`), and `{:ended, prediction}`. The stream is opened when it is enumerated, and always starts
  at the prediction's beginning. Halting it closes it on the gateway; the prediction continues. If the connection is lost,
  the stream resumes after the last piece received.
  """
  @spec stream(Handle.t()) :: Enumerable.t({:ok, event} | {:error, Error.t()})
  def stream(%Handle{} = handle), do: PredictionStream.stream(handle)

  @doc "Returns the state of a prediction without waiting; a failed one is `{:ok, %DSPexFleet.Prediction{state: :failed}}`."
  @spec status(Handle.t(), timeout) :: {:ok, Prediction.t()} | {:error, Error.t()}
  def status(%Handle{} = handle, timeout \\ Call.default_timeout()) do
    with {:ok, wire} <- Call.run(handle.context, :status, {Stub, :get}, by_id(handle), timeout) do
      Prediction.from_wire(wire)
    end
  end

  @doc "Cancels a prediction unless it has ended, and returns its state."
  @spec cancel(Handle.t(), timeout) :: {:ok, Prediction.t()} | {:error, Error.t()}
  def cancel(%Handle{} = handle, timeout \\ Call.default_timeout()) do
    with {:ok, wire} <- Call.run(handle.context, :cancel, {Stub, :cancel}, by_id(handle), timeout) do
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

  defp run(context, operation, build, opts) do
    Call.run(context, operation, {Stub, operation}, build, opts[:timeout], traceparent: opts[:traceparent])
  end

  defp request(session, program, inputs, key, opts) do
    with {:ok, json} <- inputs |> Map.new() |> Values.encode(),
         {:ok, attributes} <- attributes(opts[:attributes]) do
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
         outage: outage(opts[:outage]),
         key: opts[:key] || "",
         attributes_json: attributes
       }}
    end
  end

  defp attributes(nil), do: {:ok, ""}
  defp attributes(given), do: given |> Map.new() |> Values.encode()

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
      :prediction_timeout,
      "prediction #{prediction.id} is #{prediction.state} still and goes on. Await it again, or cancel it.",
      fields: [prediction.id]
    )
  end

  defp by_id(handle), do: fn _session -> %V1.PredictionRequest{id: handle.id} end

  defp deadline(:infinity), do: :infinity
  defp deadline(timeout), do: System.monotonic_time(:millisecond) + timeout

  # Atoms are above all numbers, so that the smaller of this and a number is the number.
  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)
end
