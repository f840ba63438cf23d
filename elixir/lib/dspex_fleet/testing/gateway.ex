defmodule DSPexFleet.Testing.Gateway do
  @moduledoc false
  # The state of a `DSPexFleet.Testing`: sessions, predictions, who waits for either, and what the test has told it.

  use GenServer

  alias DSPexFleet.{Connection, Error}
  alias DSPexFleet.Testing.{SessionStates, Transport}

  @of_sessions ~w(Variables.Publish Variables.Rollback Variables.Get Variables.History)
  @ended ["succeeded", "failed", "cancelled"]

  defstruct [
    :connection,
    told: %{},
    sessions: %{},
    predictions: %{},
    programs: %{},
    requests: [],
    waiting: [],
    watchers: []
  ]

  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts), do: GenServer.start_link(__MODULE__, nil, opts)

  @spec connection(pid) :: pid
  def connection(fleet), do: GenServer.call(fleet, :connection)

  @spec put(pid, term, function) :: :ok
  def put(fleet, key, fun), do: GenServer.call(fleet, {:put, key, fun})

  @spec finish(pid, String.t(), term) :: :ok
  def finish(fleet, id, outputs), do: GenServer.call(fleet, {:finish, id, outputs})

  @doc "Returns the requests of one operation and session, oldest first; batches as their single requests."
  @spec requests(pid, String.t(), String.t()) :: [map]
  def requests(fleet, operation, session), do: GenServer.call(fleet, {:requests, operation, session})

  @doc "Answers a request; functions of the test run in the calling process."
  @spec request(pid, String.t(), map, timeout) :: {:ok, map} | {:error, Error.t() | atom}
  def request(fleet, operation, message, timeout) do
    case GenServer.call(fleet, {:record, operation, message}) do
      nil -> serve(fleet, operation, message, timeout)
      stub -> with :pass <- stub.(message), do: serve(fleet, operation, message, timeout)
    end
  end

  @doc "Sends the calling process the messages of a stream under the reference that is returned, which monitors the fleet."
  @spec subscribe(pid, String.t(), map) :: reference
  def subscribe(fleet, operation, message) do
    ref = Process.monitor(fleet)
    GenServer.call(fleet, {:subscribe, operation, message, self(), ref})
    ref
  end

  defp serve(fleet, "Predictions.Submit", message, _timeout), do: submit(fleet, message)

  defp serve(fleet, "Predictions.SubmitBatch", %{"requests" => requests}, _timeout) do
    submitted =
      for request <- requests do
        case submit(fleet, request) do
          {:ok, handle} -> %{"handle" => handle}
          {:error, error} -> %{"error" => %{"kind" => "ProgramNotFoundError", "message" => error.message}}
        end
      end

    {:ok, %{"submitted" => submitted}}
  end

  defp serve(fleet, "Predictions.Await", message, _timeout) do
    GenServer.call(fleet, {:await, message["id"], round(message["timeout_s"] * 1_000)}, :infinity)
  end

  defp serve(fleet, "Variables.Get", %{"at_least" => token, "wait_s" => wait} = message, _timeout) when wait > 0 do
    GenServer.call(fleet, {:await_token, message, token, round(wait * 1_000)}, :infinity)
  end

  defp serve(fleet, operation, message, _timeout), do: GenServer.call(fleet, {:serve, operation, message})

  defp submit(fleet, message) do
    case GenServer.call(fleet, {:answer, message}) do
      {:ok, fun, variables} ->
        id = message["idempotency_key"]
        outputs = fun.(message["inputs"] || %{}, variables)
        GenServer.call(fleet, {:predict, id, message, variables, outputs})

      {:error, error} ->
        {:error, error}
    end
  end

  @impl true
  def init(nil) do
    {:ok, connection} = Connection.start_link(transport: {Transport, self()}, target: "127.0.0.1:1", backoff: {10, 100})
    {:ok, %__MODULE__{connection: connection}}
  end

  @impl true
  def handle_call(:connection, _from, state), do: {:reply, state.connection, state}
  def handle_call({:put, key, fun}, _from, state), do: {:reply, :ok, put_in(state.told[key], fun)}

  def handle_call({:record, operation, message}, _from, state) do
    {:reply, state.told[{:stub, operation}], %{state | requests: [{operation, message} | state.requests]}}
  end

  def handle_call({:requests, operation, session}, _from, state) do
    found =
      for {name, message} <- Enum.reverse(state.requests),
          {^operation, request} <- singles(name, message),
          request["session"] == session,
          do: request

    {:reply, found, state}
  end

  def handle_call({:answer, message}, _from, state) do
    name = message["program"] |> String.split(["@", ":"]) |> hd()
    session = state.sessions[message["session"]]

    variables =
      if session, do: Map.new(session.variables, fn {name, variable} -> {name, variable["value"]} end), else: %{}

    case state.told[{:answer, message["program"]}] || state.told[{:answer, name}] do
      nil ->
        {:reply, {:error, Error.new(:program_not_found, "the test's fleet has no answer for #{message["program"]}")},
         state}

      fun ->
        {:reply, {:ok, fun, variables}, state}
    end
  end

  def handle_call({:predict, id, message, variables, outputs}, _from, state) do
    provenance = provenance(message, variables, state.sessions[message["session"]])
    prediction = Map.put_new(state.predictions, id, %{"id" => id, "state" => "queued", "provenance" => provenance})[id]
    state = put_in(state.predictions[id], prediction)
    {:reply, {:ok, %{"id" => id}}, if(prediction["state"] in @ended, do: state, else: ended(state, id, outputs))}
  end

  def handle_call({:finish, id, outputs}, _from, state), do: {:reply, :ok, ended(state, id, outputs)}

  def handle_call({:await, id, timeout}, from, state) do
    case state.predictions[id] do
      nil -> {:reply, {:error, :prediction_not_found}, state}
      %{"state" => ended} = prediction when ended in @ended -> {:reply, {:ok, prediction}, state}
      _pending -> {:noreply, wait(state, from, {:prediction, id}, timeout)}
    end
  end

  def handle_call({:await_token, message, token, timeout}, from, state) do
    if SessionStates.reached?(state.sessions[message["session"]], token),
      do: {:reply, {:ok, SessionStates.snapshot(message, state.sessions[message["session"]])}, state},
      else: {:noreply, wait(state, from, {:token, message, token}, timeout)}
  end

  def handle_call({:serve, operation, message}, _from, state) do
    {answer, state} = operation(operation, message, state)
    {:reply, answer, state}
  end

  def handle_call({:subscribe, "Variables.Watch", message, pid, ref}, _from, state) do
    session = state.sessions[message["session"]]

    if session && SessionStates.newer?(session, message["after"]),
      do: send(pid, {ref, :message, SessionStates.snapshot(message, state.sessions[message["session"]])})

    {:reply, :ok, %{state | watchers: [{message, pid, ref} | state.watchers]}}
  end

  def handle_call({:subscribe, "Predictions.Stream", %{"id" => id}, pid, ref}, _from, state) do
    for message <- stream_messages(state.predictions[id]), do: send(pid, {ref, :message, message})
    send(pid, {ref, :end})
    {:reply, :ok, state}
  end

  def handle_call({:subscribe, _operation, _message, _pid, _ref}, _from, state), do: {:reply, :ok, state}

  @impl true
  def handle_info({:expired, from}, state) do
    {expired, waiting} = Enum.split_with(state.waiting, &match?({^from, _for}, &1))

    for {from, waited} <- expired do
      case waited do
        {:prediction, id} -> GenServer.reply(from, {:ok, state.predictions[id]})
        {:token, _message, _token} -> GenServer.reply(from, {:error, :revision_not_reached})
      end
    end

    {:noreply, %{state | waiting: waiting}}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp operation(operation, %{"session" => id} = message, state) when operation in @of_sessions do
    {answer, sessions} = SessionStates.answer(operation, message, state.sessions)
    changed? = sessions[id] != state.sessions[id]
    state = %{state | sessions: sessions}
    {answer, if(changed?, do: announce(state, id), else: state)}
  end

  defp operation("Predictions.Get", %{"id" => id}, state) do
    case state.predictions[id] do
      nil -> {{:error, :prediction_not_found}, state}
      prediction -> {{:ok, prediction}, state}
    end
  end

  defp operation("Predictions.Cancel", %{"id" => id} = message, state) do
    state = if state.predictions[id]["state"] in [nil | @ended], do: state, else: ended(state, id, :cancelled)
    operation("Predictions.Get", message, state)
  end

  defp operation("Programs.Register", message, state) do
    before = state.programs[message["name"]]
    version = if before && before["spec"] != message["spec"], do: before["version"] + 1, else: 1
    program = Map.merge(message, %{"version" => version, "content" => "test"})
    {{:ok, program}, put_in(state.programs[message["name"]], program)}
  end

  defp operation(operation, _message, state) do
    error =
      Error.new(:unimplemented, "the test's fleet has no #{operation}: give it one with DSPexFleet.Testing.stub/3")

    {{:error, error}, state}
  end

  defp announce(state, id) do
    session = state.sessions[id]

    for {%{"session" => ^id} = message, pid, ref} <- state.watchers,
        do: send(pid, {ref, :message, SessionStates.snapshot(message, session)})

    release(state, fn
      {:token, %{"session" => ^id} = message, token} ->
        SessionStates.reached?(session, token) && {:ok, SessionStates.snapshot(message, session)}

      _other ->
        nil
    end)
  end

  defp provenance(message, variables, session) do
    %{
      "session" => message["session"],
      "token" => session && session.token,
      "program" => message["program"],
      "program_version" => 1,
      "model" => "test",
      "prompt_tokens" => 0,
      "completion_tokens" => 0,
      "cost_usd" => "0",
      "staleness_s" => 0.0,
      "outage" => false,
      "worker" => "test",
      "arms" => [],
      "record" => %{"variables" => variables}
    }
  end

  defp ended(state, _id, :pending), do: state

  defp ended(state, id, outputs) do
    prediction = Map.merge(state.predictions[id], outcome(outputs))
    state = put_in(state.predictions[id], prediction)
    release(state, &(&1 == {:prediction, id} && {:ok, prediction}))
  end

  defp outcome(:cancelled), do: %{"state" => "cancelled"}

  defp outcome({:error, %Error{} = error}),
    do: %{"state" => "failed", "error" => %{"kind" => error.kind, "message" => error.message, "fields" => error.fields}}

  defp outcome({:error, reason}) do
    kind = Enum.find_value(Error.Reasons.by_kind(), fn {kind, known} -> known == reason && kind end)

    %{
      "state" => "failed",
      "error" => %{"kind" => kind, "message" => "the test's fleet was told to fail", "fields" => []}
    }
  end

  defp outcome(outputs), do: %{"state" => "succeeded", "outputs" => Map.new(outputs)}

  defp stream_messages(%{"state" => state, "outputs" => outputs} = prediction) when state == "succeeded" do
    pieces =
      for {field, text} <- outputs, is_binary(text), do: %{"piece" => %{"field" => to_string(field), "text" => text}}

    [%{"state" => "running"}] ++ pieces ++ [%{"ended" => prediction}]
  end

  defp stream_messages(prediction), do: [%{"ended" => prediction}]

  defp wait(state, from, waited, timeout) do
    Process.send_after(self(), {:expired, from}, timeout)
    %{state | waiting: [{from, waited} | state.waiting]}
  end

  # Replies to those for whom the function returns an answer.
  defp release(state, answer) do
    waiting =
      Enum.reject(state.waiting, fn {from, waited} ->
        result = answer.(waited)
        if result, do: GenServer.reply(from, result)
        result
      end)

    %{state | waiting: waiting}
  end

  defp singles("Predictions.SubmitBatch", message), do: Enum.map(message["requests"], &{"Predictions.Submit", &1})
  defp singles(operation, message), do: [{operation, message}]
end
