defmodule DSPexFleet do
  @moduledoc """
  Predictions of DSPy programs on the fleet, steered by a session's variables.

      session = DSPexFleet.Session.new("support", connection: MyApp.Fleet)

      with {:ok, token} <- DSPexFleet.Variables.publish(session, llm_temperature: 0.9),
           {:ok, prediction} <- DSPexFleet.predict(session, "qa@prod", %{question: "Why is the sky blue?"}, at_least: token) do
        prediction.outputs["answer"]
      end

  Every function returns `{:ok, value}` or `{:error, %DSPexFleet.Error{}}`, for invalid arguments and options as well, and has
  a variant with `!` that returns the value or raises. A request whose gateway fails is sent to another one, or again, under
  the same id, so that each is applied once.

  ## Telemetry

  | event | measurements | metadata |
  | --- | --- | --- |
  | `[:dspex_fleet, :call, :start]` | `:monotonic_time`, `:system_time` | `:operation`, `:session` |
  | `[:dspex_fleet, :call, :stop]` | `:duration`, `:monotonic_time` | `:operation`, `:session`, `:error` (`nil` or the error) |
  | `[:dspex_fleet, :call, :exception]` | `:duration`, `:monotonic_time` | `:operation`, `:session`, `:kind`, `:reason`, `:stacktrace` |
  | `[:dspex_fleet, :prediction, :submitted]` | `:system_time` | `:id`, `:session`, `:program` |
  | `[:dspex_fleet, :prediction, :ended]` | `:duration` since it was submitted, `:prompt_tokens`, `:completion_tokens`, `:cost_usd`, each if known | `:id`, `:session`, `:program`, `:model`, `:state`, `:error` |
  | `[:dspex_fleet, :connection, :up]` | `:attempts` | `:connection`, `:target` |
  | `[:dspex_fleet, :connection, :down]` | | `:connection`, `:target`, `:reason` |
  | `[:dspex_fleet, :watch, :snapshot]` | `:staleness_s` | `:session`, `:token` |

  `[:dspex_fleet, :prediction, :ended]` is sent when `await/2` or `stream/1` gets the end, so once for each process that waits.
  Operations are named as their functions, such as `:publish`, `:submit` or `:start_rollout`.

  Where the application has `opentelemetry_api`, every request continues the trace of its process's current span; the
  fleet's own spans stand below it. `submit/4` takes a `:traceparent` as well.
  """

  alias DSPexFleet.{Call, Error, Handle, Options, Prediction, PredictionEvents, PredictionStream, PredictionWait}
  alias DSPexFleet.{Replica, Session, Submission, Subscribers, Token, Variable}

  @type inputs :: %{(atom | String.t()) => term} | keyword
  @type event ::
          {:state, Prediction.state()} | {:piece, field :: String.t(), text :: String.t()} | {:ended, Prediction.t()}

  @await_ms PredictionWait.default_timeout()

  @submit_schema Options.call(Submission.options())
  @waiting PredictionWait.options()
  @predict_schema Options.call(Submission.options() ++ @waiting)
  @replay_schema NimbleOptions.new!(
                   await: [type: :pos_integer, default: @await_ms, doc: "Milliseconds to wait for the repetition."]
                 )
  @await_schema NimbleOptions.new!(@waiting)
  @stream_schema Options.call(
                   Submission.options() ++
                     @waiting ++
                     [
                       max_concurrency: [type: :pos_integer, default: 50, doc: "The most predictions at a time."],
                       ordered: [
                         type: :boolean,
                         default: true,
                         doc: "Whether results are in the order of the inputs, and not in that of their ends."
                       ]
                     ]
                 )
  @subscribe_schema NimbleOptions.new!(
                      names: [
                        type: Options.names(),
                        default: [],
                        doc: "The variables that snapshots have; all by default."
                      ],
                      after: [type: Options.token(), doc: "A token that the caller knows: only newer ones are sent."]
                    )

  @doc """
  Submits a prediction and waits for it.

  Takes the options of `submit/4` and:

  #{NimbleOptions.docs(@await_schema)}
  """
  @spec predict(Session.ref(), String.t(), inputs, keyword) :: {:ok, Prediction.t()} | {:error, Error.t()}
  def predict(session, program, inputs, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @predict_schema),
         {waiting, opts} = Keyword.split(opts, Keyword.keys(@waiting)),
         {:ok, handle} <- submit_valid(session, program, inputs, opts),
         do: PredictionWait.await(handle, waiting[:await], waiting[:cancel_on_timeout])
  end

  @doc """
  Submits a prediction of `"name"`, `"name@label"` or `"name:version"` and returns its `DSPexFleet.Handle` at once.

  #{NimbleOptions.docs(@submit_schema)}
  """
  @spec submit(Session.ref(), String.t(), inputs, keyword) :: {:ok, Handle.t()} | {:error, Error.t()}
  def submit(session, program, inputs, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @submit_schema), do: submit_valid(session, program, inputs, opts)
  end

  @doc """
  Submits one prediction for each of the inputs in one request; the results are in the same order.

  Each is `{:ok, handle}` or `{:error, error}`: a rejected one doesn't affect the others. Takes the options of `submit/4`;
  with an `:idempotency_key`, the n-th input has the key `"key/n"`.
  """
  @spec submit_many(Session.ref(), String.t(), [inputs], keyword) ::
          {:ok, [{:ok, Handle.t()} | {:error, Error.t()}]} | {:error, Error.t()}
  def submit_many(session, program, many, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @submit_schema), :ok <- check_list(many) do
      key = opts[:idempotency_key] || Call.fresh_id()
      build = &batch(&1, program, many, key, opts)

      with {:ok, answer} <- run(session, :submit_batch, "Predictions.SubmitBatch", build, opts),
           do: {:ok, Enum.map(answer["submitted"], &submitted(&1, session, program))}
    end
  end

  @doc """
  Waits for a prediction to end, for at most `timeout` milliseconds (default 60,000) or `:infinity`.

  Returns the prediction if it succeeded and its error if it failed or was cancelled. After `:prediction_timeout` it
  is still running: await it again, or cancel it. Instead of a timeout, the options are

  #{NimbleOptions.docs(@await_schema)}
  """
  @spec await(Handle.t(), timeout | keyword) :: {:ok, Prediction.t()} | {:error, Error.t()}
  def await(handle, timeout_or_opts \\ [])

  def await(%Handle{} = handle, opts) when is_list(opts) do
    with {:ok, opts} <- Options.validate(opts, @await_schema),
         do: PredictionWait.await(handle, opts[:await], opts[:cancel_on_timeout])
  end

  def await(%Handle{} = handle, timeout), do: await(handle, await: timeout)

  @doc """
  Waits for many predictions, all for at most `timeout` milliseconds or with the options of `await/2`.

  Returns what `await/2` would for each, in the same order.
  """
  @spec await_many([Handle.t()], timeout | keyword) :: [{:ok, Prediction.t()} | {:error, Error.t()}]
  def await_many(handles, timeout_or_opts \\ [])
  def await_many(handles, timeout) when not is_list(timeout), do: await_many(handles, await: timeout)

  def await_many(handles, opts) do
    case Options.validate(opts, @await_schema) do
      {:ok, opts} -> PredictionWait.await_many(handles, opts[:await], opts[:cancel_on_timeout])
      {:error, error} -> Enum.map(handles, fn _handle -> {:error, error} end)
    end
  end

  @doc """
  Returns a stream of what `predict/4` returns for each of the inputs, a number of them at a time.

  The predictions are those of the process that enumerates it: one that is killed leaves none of its waiting processes behind,
  though the predictions that they have submitted go on.

  #{NimbleOptions.docs(@stream_schema)}
  """
  @spec async_stream(Session.ref(), String.t(), Enumerable.t(inputs), keyword) ::
          Enumerable.t({:ok, Prediction.t()} | {:error, Error.t()})
  def async_stream(session, program, many, opts \\ []) do
    case Options.validate(opts, @stream_schema) do
      {:ok, opts} ->
        {parallel, opts} = Keyword.split(opts, [:max_concurrency, :ordered])

        many
        |> Task.async_stream(&predict(session, program, &1, opts), [timeout: :infinity] ++ parallel)
        |> Stream.map(fn {:ok, result} -> result end)

      {:error, error} ->
        Stream.map(many, fn _inputs -> {:error, error} end)
    end
  end

  @doc """
  Streams the progress of a prediction as `{:ok, event}`, until `{:ok, {:ended, prediction}}` or `{:error, error}`.

  Events are `{:state, state}`, `{:piece, field, text}` with the next piece of an output field's text (of a prediction
  submitted with `stream: true`), and `{:ended, prediction}`. The stream is opened when it is enumerated, on a connection of
  its own, and always starts at the prediction's beginning, also after its end. Leaving it early closes that connection and
  disturbs nobody; the prediction continues. If the connection is lost, the stream resumes after the last piece received.
  """
  @spec stream(Handle.t()) :: Enumerable.t({:ok, event} | {:error, Error.t()})
  def stream(%Handle{} = handle), do: PredictionStream.stream(handle)

  @doc "Returns the state of a prediction without waiting; a failed one is `{:ok, %DSPexFleet.Prediction{state: :failed}}`."
  @spec status(Handle.t(), timeout) :: {:ok, Prediction.t()} | {:error, Error.t()}
  def status(%Handle{} = handle, timeout \\ Call.default_timeout()) do
    with {:ok, answer} <- Call.run(handle.session, :status, "Predictions.Get", by_id(handle), timeout),
         do: {:ok, Prediction.from_message(answer)}
  end

  @doc "Cancels a prediction unless it has ended, and returns its state."
  @spec cancel(Handle.t(), timeout) :: {:ok, Prediction.t()} | {:error, Error.t()}
  def cancel(%Handle{} = handle, timeout \\ Call.default_timeout()) do
    with {:ok, answer} <- Call.run(handle.session, :cancel, "Predictions.Cancel", by_id(handle), timeout),
         do: {:ok, Prediction.from_message(answer)}
  end

  @doc """
  Makes a prediction that succeeded again, under the token and the program's version that its provenance names.

  Returns a map of its `:inputs`, the predictions `:first` and `:again`, and the output fields that are
  `:differences`; an LM may well answer differently. After `:await` milliseconds `:again` is as it stands, and can be awaited
  by its id.

  #{NimbleOptions.docs(@replay_schema)}
  """
  @spec replay(Handle.t(), keyword) ::
          {:ok, %{inputs: map, first: Prediction.t(), again: Prediction.t(), differences: [String.t()]}}
          | {:error, Error.t()}
  def replay(%Handle{} = handle, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @replay_schema),
         build = fn _session -> %{"id" => handle.id, "timeout_s" => opts[:await] / 1_000} end,
         timeout = opts[:await] + Call.default_timeout(),
         {:ok, answer} <- Call.run(handle.session, :replay, "Predictions.Replay", build, timeout, waits?: true) do
      {:ok,
       %{
         inputs: answer["inputs"],
         first: Prediction.from_message(answer["first"]),
         again: Prediction.from_message(answer["again"]),
         differences: answer["differences"]
       }}
    end
  end

  @doc """
  Sends the calling process the session's states as messages, the current one first.

    * `{:dspex_fleet, :snapshot, %DSPexFleet.Snapshot{}}` – a newer state; intermediate revisions may be skipped, but states
      never go back.
    * `{:dspex_fleet, :interrupted, {session_id, %DSPexFleet.Error{}}}` – no gateway is reached for now; it goes on by itself.
    * `{:dspex_fleet, :resumed, session_id}` – the end of an interruption, after which the newest state follows if it is new.
    * `{:dspex_fleet, :down, {session_id, %DSPexFleet.Error{}}}` – nothing follows: rejected, such as for a missing scope, or
      the connection has ended.

  All subscribers of a session on a node share one stream of the gateway, which `DSPexFleet.Replica` keeps. The subscription
  ends with the process or with `unsubscribe/1`; subscribing again replaces it.

  #{NimbleOptions.docs(@subscribe_schema)}
  """
  @spec subscribe(Session.ref(), keyword) :: :ok | {:error, Error.t()}
  def subscribe(session, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @subscribe_schema), {:ok, session} <- Session.resolve(session) do
      {key, names} = {Replica.key(session), opts[:names]}
      known = opts[:after] && Token.parse!(opts[:after])
      Subscribers.add(key, names, known)
      Replica.welcome(key, names, known)
    end
  end

  @doc "Ends a subscription; no message of it arrives after this returns."
  @spec unsubscribe(Session.ref()) :: :ok | {:error, Error.t()}
  def unsubscribe(session) do
    with {:ok, %Session{id: id} = session} <- Session.resolve(session) do
      key = Replica.key(session)
      Subscribers.remove(key)
      Replica.settle(key)
      flush(id)
    end
  end

  @doc "Returns the `Phoenix.PubSub` topic of a session, for connections with a `:pubsub`."
  @spec topic(String.t()) :: String.t()
  def topic(session_id), do: "dspex_fleet:" <> session_id

  @doc "Like `predict/4`, but returns the prediction itself or raises `DSPexFleet.Error`."
  @spec predict!(Session.ref(), String.t(), inputs, keyword) :: Prediction.t()
  def predict!(session, program, inputs, opts \\ []), do: session |> predict(program, inputs, opts) |> Error.unwrap!()

  @doc "Like `submit/4`, but returns the handle itself or raises `DSPexFleet.Error`."
  @spec submit!(Session.ref(), String.t(), inputs, keyword) :: Handle.t()
  def submit!(session, program, inputs, opts \\ []), do: session |> submit(program, inputs, opts) |> Error.unwrap!()

  @doc "Like `submit_many/4`, but returns the handles themselves or raises the first `DSPexFleet.Error`."
  @spec submit_many!(Session.ref(), String.t(), [inputs], keyword) :: [Handle.t()]
  def submit_many!(session, program, many, opts \\ []) do
    session |> submit_many(program, many, opts) |> Error.unwrap!() |> Enum.map(&Error.unwrap!/1)
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

  @doc "Like `replay/2`, but returns the map itself or raises `DSPexFleet.Error`."
  @spec replay!(Handle.t(), keyword) :: map
  def replay!(handle, opts \\ []), do: handle |> replay(opts) |> Error.unwrap!()

  @doc "Like `cancel/2`, but returns the prediction itself or raises `DSPexFleet.Error`."
  @spec cancel!(Handle.t(), timeout) :: Prediction.t()
  def cancel!(handle, timeout \\ Call.default_timeout()), do: handle |> cancel(timeout) |> Error.unwrap!()

  defp submit_valid(session, program, inputs, opts) do
    key = opts[:idempotency_key] || Call.fresh_id()
    build = &Submission.message(&1, program, inputs, key, opts)

    with {:ok, answer} <- run(session, :submit, "Predictions.Submit", build, opts),
         do: {:ok, handle(answer, session, program)}
  end

  defp batch(session, program, many, key, opts) do
    to_message = fn {inputs, n} -> Submission.message(session, program, inputs, "#{key}/#{n}", opts) end

    with {:ok, messages} <- many |> Enum.with_index() |> Variable.traverse(to_message),
         do: {:ok, %{"requests" => messages}}
  end

  defp run(session, name, operation, build, opts) do
    Call.run(session, name, operation, build, opts[:timeout], traceparent: opts[:traceparent])
  end

  defp submitted(%{"handle" => answer}, session, program), do: {:ok, handle(answer, session, program)}
  defp submitted(%{"error" => error}, _session, _program), do: {:error, Error.from_response(error)}

  defp handle(%{"id" => id}, session, program) do
    handle = %Handle{id: id, session: session, program: program, submitted_at: System.monotonic_time()}
    _sent = with {:ok, session} <- Session.resolve(session), do: PredictionEvents.submitted(handle, session)
    handle
  end

  defp check_list(many) when is_list(many), do: :ok
  defp check_list(other), do: {:error, Error.new(:invalid_value, "expected a list of inputs, got: #{inspect(other)}")}

  defp by_id(handle), do: fn _session -> %{"id" => handle.id} end

  defp flush(id) do
    receive do
      {:dspex_fleet, :snapshot, %{session: ^id}} -> flush(id)
      {:dspex_fleet, kind, {^id, _error}} when kind in [:interrupted, :down] -> flush(id)
      {:dspex_fleet, :resumed, ^id} -> flush(id)
    after
      0 -> :ok
    end
  end
end
