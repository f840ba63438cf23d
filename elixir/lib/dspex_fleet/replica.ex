defmodule DSPexFleet.Replica do
  @moduledoc """
  A session's newest variables in this node's memory: reads cost no round trip.

      {:ok, 0.7} = DSPexFleet.Replica.get(session, :llm_temperature)
      {:ok, token} = DSPexFleet.Variables.publish(session, llm_temperature: 0.9)
      {:ok, 0.9} = DSPexFleet.Replica.get(session, :llm_temperature, at_least: token)

  The first read or `DSPexFleet.subscribe/2` of a session starts its replica: one stream from the gateway for each session
  and node, however many processes read and subscribe. It ends a minute after the last read when nobody is subscribed; in a
  supervision tree it stays:

      children = [{DSPexFleet.Replica, session: session}]

  Reads are monotonic: while the node follows a session, no read returns an older state than an earlier one did, whatever
  gateway the stream comes from. A read may lag behind the newest publish by the time that it takes to arrive; with
  `:at_least` it waits for the token, as in Python.
  """

  use GenServer, restart: :transient

  alias DSPexFleet.{Connection, Error, Options, Session, Snapshot, StreamReader, Subscribers, Token, Variable}
  alias DSPexFleet.Replica.{Holder, Table}

  @registry DSPexFleet.Replicas
  @supervisor DSPexFleet.Replica.Supervisor
  @idle_ms 60_000

  @schema NimbleOptions.new!(
            at_least: [type: Options.token(), doc: "The token to read at, or a later one."],
            wait: [
              type: :non_neg_integer,
              default: 5_000,
              doc:
                "Milliseconds to wait for that token, and for the first snapshot of a session that wasn't followed yet."
            ],
            max_outage: [
              type: :timeout,
              default: 15_000,
              doc:
                "A replica that has had no gateway for longer than this many milliseconds returns the error instead of what " <>
                  "it has; `:infinity` reads on."
            ]
          )

  @doc """
  Returns the value of one variable.

  `:default` is returned if the session has no such variable, otherwise an error with the reason `:variable_not_found`.

  #{NimbleOptions.docs(@schema)}
  """
  @spec get(Session.ref(), atom | String.t(), keyword) :: {:ok, term} | {:error, Error.t()}
  def get(session, name, opts \\ []) do
    {default, opts} = if Keyword.keyword?(opts), do: Keyword.pop(opts, :default, :none), else: {:none, opts}

    with {:ok, name} <- Options.name(name), {:ok, key, opts} <- prepare(session, opts) do
      case read_variable(key, name, opts) do
        {:ok, %Variable{value: value}} -> {:ok, value}
        {:ok, nil} when default == :none -> {:error, missing(name, key)}
        {:ok, nil} -> {:ok, default}
        {:error, error} -> {:error, error}
      end
    end
  end

  @doc "Returns a `DSPexFleet.Snapshot` of all variables; the options are those of `get/3`."
  @spec snapshot(Session.ref(), keyword) :: {:ok, Snapshot.t()} | {:error, Error.t()}
  def snapshot(session, opts \\ []) do
    with {:ok, key, opts} <- prepare(session, opts), :ok <- reach(key, opts) do
      {snapshot, outage} = Table.snapshot(key)
      with :ok <- check_outage(outage, opts), do: {:ok, snapshot}
    end
  end

  @doc "Like `get/3`, but returns the value itself or raises `DSPexFleet.Error`."
  @spec get!(Session.ref(), atom | String.t(), keyword) :: term
  def get!(session, name, opts \\ []), do: session |> get(name, opts) |> Error.unwrap!()

  @doc "Like `snapshot/2`, but returns the snapshot itself or raises `DSPexFleet.Error`."
  @spec snapshot!(Session.ref(), keyword) :: Snapshot.t()
  def snapshot!(session, opts \\ []), do: session |> snapshot(opts) |> Error.unwrap!()

  @doc "Keeps the replica of a `:session` for as long as the process lives that this starts."
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts), do: Holder.start_link(opts)

  @doc false
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(opts), do: %{id: {__MODULE__, opts[:session]}, start: {__MODULE__, :start_link, [opts]}}

  @doc false
  # What a session's replica and subscribers are found by: a connection counts by its name if it has one.
  @spec key(Session.t()) :: Subscribers.key()
  def key(%Session{id: id, connection: pid}) when is_pid(pid) do
    case node(pid) == node() && Process.info(pid, :registered_name) do
      {:registered_name, name} when is_atom(name) -> {name, id}
      _unnamed -> {pid, id}
    end
  end

  def key(%Session{id: id, connection: name}), do: {name, id}

  @doc false
  # Returns the replica's process, which is started unless it runs.
  @spec ensure(Subscribers.key()) :: pid
  def ensure(key) do
    case Registry.whereis_name({@registry, key}) do
      # Not one that has ended and is still registered.
      pid when is_pid(pid) ->
        pid

      :undefined ->
        spec = %{id: __MODULE__, start: {GenServer, :start_link, [__MODULE__, key]}, restart: :transient}

        case DynamicSupervisor.start_child(@supervisor, spec) do
          {:ok, pid} -> pid
          # Another caller was first.
          :ignore -> ensure(key)
        end
    end
  end

  @doc false
  # Sends a process that has subscribed the snapshot that is there, unless it gets the same as a subscriber.
  @spec welcome(Subscribers.key(), [String.t()], Token.t() | nil) :: :ok
  def welcome(key, names, known) do
    key |> ensure() |> GenServer.cast({:welcome, self(), names, known, System.monotonic_time()})
  end

  @doc false
  # Returns once everything that the replica has sent before is in the mailbox.
  @spec settle(Subscribers.key()) :: :ok
  def settle(key) do
    with [{pid, _value}] <- Registry.lookup(@registry, key), do: GenServer.call(pid, :settle, :infinity)
    :ok
  catch
    :exit, _reason -> :ok
  end

  defp prepare(session, opts) do
    with {:ok, session} <- Session.resolve(session), {:ok, opts} <- Options.validate(opts, @schema) do
      {:ok, key(session), Keyword.update(opts, :at_least, nil, &Token.parse!/1)}
    end
  end

  # Reads twice at most: what isn't there is looked for again when the replica has got as far.
  defp read_variable(key, name, opts) do
    with nil <- read_known(key, name, opts),
         :ok <- reach(key, opts) do
      read_known(key, name, opts) || absent(key, opts)
    end
  end

  defp read_known(key, name, opts) do
    case Table.variable(key, name) do
      nil -> nil
      {variable, token, outage} -> if far_enough?(token, opts[:at_least]), do: checked(variable, outage, opts)
    end
  end

  defp absent(key, opts) do
    {_snapshot, outage} = Table.snapshot(key)
    checked(nil, outage, opts)
  end

  defp checked(result, outage, opts), do: with(:ok <- check_outage(outage, opts), do: {:ok, result})

  defp check_outage(nil, _opts), do: :ok

  defp check_outage({since, error}, opts) do
    limit = opts[:max_outage]
    if limit == :infinity or System.monotonic_time(:millisecond) - since < limit, do: :ok, else: {:error, error}
  end

  defp reach(key, opts) do
    token = Table.token(key)
    # A replica that has ended keeps nothing, so that what is there is followed.
    if token != nil and far_enough?(token, opts[:at_least]), do: :ok, else: await(key, opts)
  end

  # One that is about to end is found for a moment still.
  defp await(key, opts, tries \\ 10) do
    GenServer.call(ensure(key), {:await, opts[:at_least], opts[:wait]}, :infinity)
  catch
    :exit, _reason when tries > 0 -> await(key, opts, tries - 1)
    :exit, {reason, _call} -> {:error, Error.new(:gateway_unavailable, "the replica ended: #{inspect(reason)}")}
  end

  defp far_enough?(_token, nil), do: true
  defp far_enough?(token, at_least), do: Token.compare(token, at_least) != :lt

  defp missing(name, {_connection, session}) do
    Error.new(:variable_not_found, "session '#{session}' has no variable '#{name}'", fields: [name, session])
  end

  @impl true
  def init({connection, session} = key) do
    case Registry.register(@registry, key, nil) do
      {:ok, _registry} ->
        Process.flag(:trap_exit, true)
        known = Table.token(key)
        message = if known, do: %{"session" => session, "after" => to_string(known)}, else: %{"session" => session}
        reader = StreamReader.start_link(connection, "Variables.Watch", message, "token")
        Process.send_after(self(), :check_use, @idle_ms)
        {:ok, %{key: key, reader: reader, token: known, sent_at: nil, waiting: %{}, outage: nil}}

      # One that is started again after a crash may find that a caller has started another one meanwhile.
      {:error, {:already_registered, _pid}} ->
        :ignore
    end
  end

  @impl true
  def handle_call({:await, at_least, wait}, from, state) do
    if state.token && far_enough?(state.token, at_least) do
      {:reply, :ok, state}
    else
      timer = Process.send_after(self(), {:expired, from}, wait)
      {:noreply, put_in(state.waiting[from], {timer, at_least})}
    end
  end

  def handle_call(:settle, _from, state), do: {:reply, :ok, state}

  @impl true
  def handle_cast({:welcome, pid, names, known, since}, state) do
    if state.token != nil and (state.sent_at == nil or state.sent_at <= since) do
      {snapshot, _outage} = Table.snapshot(state.key)
      Subscribers.send_snapshot(pid, snapshot, names, known)
    end

    {:noreply, state}
  end

  @impl true
  def handle_info({reader, {:message, message}}, %{reader: reader} = state) do
    case Snapshot.from_message(message) do
      {:ok, snapshot} -> {:noreply, take(state, snapshot)}
      {:error, error} -> {:noreply, interrupted(state, error)}
    end
  end

  def handle_info({reader, {:interrupted, error}}, %{reader: reader} = state), do: {:noreply, interrupted(state, error)}
  def handle_info({reader, :resumed}, %{reader: reader} = state), do: {:noreply, resumed(state)}

  def handle_info({reader, {:refused, error}}, %{reader: reader} = state) do
    for {from, {_timer, _at_least}} <- state.waiting, do: GenServer.reply(from, {:error, error})
    tell(state, {:dspex_fleet, :down, {elem(state.key, 1), error}})
    Table.delete(state.key)
    {:stop, :normal, state}
  end

  def handle_info({:expired, from}, state) do
    {entry, waiting} = Map.pop(state.waiting, from)
    if entry, do: GenServer.reply(from, {:error, not_reached(state, entry)})
    {:noreply, %{state | waiting: waiting}}
  end

  def handle_info(:check_use, state) do
    if Subscribers.count(state.key) == 0 and Table.idle_ms(state.key) >= @idle_ms and state.waiting == %{} do
      Table.delete(state.key)
      {:stop, :normal, state}
    else
      Process.send_after(self(), :check_use, @idle_ms)
      {:noreply, state}
    end
  end

  def handle_info({:EXIT, reader, reason}, %{reader: reader} = state), do: {:stop, {:reader, reason}, state}
  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state), do: Process.exit(state.reader, :kill)

  defp take(state, snapshot) do
    if state.token == nil or Token.compare(snapshot.token, state.token) == :gt do
      Table.put(state.key, snapshot)
      sent_at = System.monotonic_time()
      Subscribers.send_snapshot(state.key, snapshot)
      broadcast(state, {:dspex_fleet, :snapshot, snapshot})
      about = %{session: snapshot.session, token: snapshot.token}
      :telemetry.execute([:dspex_fleet, :watch, :snapshot], %{staleness_s: snapshot.staleness_s}, about)
      release(%{state | token: snapshot.token, sent_at: sent_at})
    else
      state
    end
  end

  defp release(state) do
    {reached, waiting} = Enum.split_with(state.waiting, fn {_from, {_, token}} -> far_enough?(state.token, token) end)

    for {from, {timer, _token}} <- reached do
      _left = Process.cancel_timer(timer)
      GenServer.reply(from, :ok)
    end

    %{state | waiting: Map.new(waiting)}
  end

  defp resumed(state) do
    Table.put_outage(state.key, nil)
    tell(state, {:dspex_fleet, :resumed, elem(state.key, 1)})
    %{state | outage: nil}
  end

  defp interrupted(state, error) do
    outage = {System.monotonic_time(:millisecond), error}
    Table.put_outage(state.key, outage)
    tell(state, {:dspex_fleet, :interrupted, {elem(state.key, 1), error}})
    %{state | outage: outage}
  end

  defp tell(state, message) do
    Subscribers.send_all(state.key, message)
    broadcast(state, message)
  end

  defp broadcast(%{key: {connection, session}}, message) do
    with pubsub when pubsub != nil <- Connection.pubsub(connection),
         do: DSPexFleet.PubSub.broadcast(pubsub, DSPexFleet.topic(session), message)
  end

  defp not_reached(%{outage: {_since, error}}, _entry), do: error

  defp not_reached(state, {_timer, at_least}) do
    session = elem(state.key, 1)
    at = state.token || "nothing yet"

    Error.new(:revision_not_reached, "session '#{session}' is at #{at} in this node, and not at #{at_least || "any"}",
      fields: [session, to_string(at_least), to_string(at)]
    )
  end
end
