defmodule DSPexFleet.Connection do
  @moduledoc """
  A connection to the gateways of a fleet, shared by any number of sessions and processes.

      children = [
        {DSPexFleet.Connection,
         name: MyApp.Fleet, targets: ["gateway-1.internal:8061", "gateway-2.internal:8061"], tls: true, token: &MyApp.token/0}
      ]

  Starting doesn't wait for a gateway, and succeeds even if all are down. Each gateway is up or down by itself: calls are
  spread over those that are up, a call whose gateway fails is sent to another one under the same id, and a gateway that is
  down is tried again after a growing pause, by this process and not by a caller. While all are down, calls wait for one
  that comes back, each within its own timeout.

  ## Options

    * `:name` – a name as for `GenServer.start_link/3`.

  #{DSPexFleet.Connection.Options.docs()}

  All but `:name` can be set in `config :dspex_fleet` as well; those given to `start_link/1` take precedence.
  """

  use GenServer

  alias DSPexFleet.Connection.{Backoff, Circuits, Options, Target}
  alias DSPexFleet.{Error, Processes}

  @type server :: GenServer.server()

  # How often calls that get no answer may have their gateway checked.
  @doubt_ms 2_000

  @typedoc false
  # What a call needs of the gateway that was chosen for it.
  @type choice :: %{
          connection: server,
          index: non_neg_integer,
          transport: module,
          gateway: term,
          headers: [{String.t(), String.t()}],
          circuits: Circuits.t()
        }

  defstruct [:options, :registry, :circuits, gateways: %{}, waiting: %{}]

  @doc "Starts a connection; see the options above."
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts \\ []) do
    {name, opts} = Keyword.split(opts, [:name])
    GenServer.start_link(__MODULE__, Options.new!(opts), name)
  end

  @doc false
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(opts), do: %{id: Keyword.get(opts, :name, __MODULE__), start: {__MODULE__, :start_link, [opts]}}

  @doc "Returns true if a gateway is up."
  @spec connected?(server) :: boolean
  def connected?(connection) do
    case Processes.fetch(connection) do
      {:ok, shared} -> Circuits.any_up?(shared.circuits, tuple_size(shared.gateways))
      :error -> false
    end
  end

  @doc "Returns each gateway with its state, `:up` or `:down`."
  @spec gateways(server) :: {:ok, [{String.t(), :up | :down}]} | {:error, Error.t()}
  def gateways(connection) do
    with {:ok, shared} <- fetch(connection) do
      {:ok,
       for {{label, _gateway}, index} <- shared.gateways |> Tuple.to_list() |> Enum.with_index() do
         {label, if(Circuits.up?(shared.circuits, index), do: :up, else: :down)}
       end}
    end
  end

  @doc false
  # Chooses a gateway for a call; waits up to `timeout` milliseconds for one to come up.
  @spec choose(server, timeout) :: {:ok, choice} | {:error, Error.t()}
  def choose(connection, timeout) do
    with {:ok, shared} <- fetch(connection),
         {:ok, index} <- next_up(connection, shared, timeout),
         {:ok, headers} <- headers(shared.headers) do
      {_label, gateway} = elem(shared.gateways, index)

      {:ok,
       %{
         connection: connection,
         index: index,
         transport: shared.transport,
         gateway: gateway,
         headers: headers,
         circuits: shared.circuits
       }}
    end
  end

  @doc false
  # Marks the gateway of a choice as down, before anybody else chooses it.
  @spec report_down(choice, Error.t()) :: :ok
  def report_down(%{circuits: circuits, index: index} = choice, error) do
    if Circuits.set(circuits, index, :down), do: GenServer.cast(choice.connection, {:went_down, index, error})
    :ok
  end

  @doc false
  @spec usable?(choice) :: boolean
  def usable?(%{circuits: circuits, index: index}), do: Circuits.up?(circuits, index)

  @doc false
  # Like `usable?/1`, but has a gateway checked whose answer is long in coming.
  @spec doubt(choice) :: boolean
  def doubt(%{circuits: circuits, index: index} = choice) do
    if Circuits.first_doubt?(circuits, index, @doubt_ms), do: suspect(choice)
    usable?(choice)
  end

  @doc false
  # Has the gateway of a choice checked.
  @spec suspect(choice) :: :ok
  def suspect(choice), do: GenServer.cast(choice.connection, {:check, choice.index})

  @doc false
  @spec pubsub(server) :: atom
  def pubsub(connection) do
    case Processes.fetch(connection) do
      {:ok, shared} -> shared.pubsub
      :error -> nil
    end
  end

  defp fetch(connection) do
    with :error <- Processes.fetch(connection), do: {:error, not_running(connection, "no such process on this node")}
  end

  defp next_up(connection, shared, timeout) do
    case Circuits.next_up(shared.circuits, tuple_size(shared.gateways)) do
      nil -> ask(connection, {:await_up, timeout})
      index -> {:ok, index}
    end
  end

  defp ask(connection, request) do
    GenServer.call(connection, request, :infinity)
  catch
    :exit, {reason, _call} -> {:error, not_running(connection, inspect(reason))}
  end

  # The reason of the exit isn't shown, since it may contain the token.
  defp headers(build) do
    {:ok, build.()}
  catch
    :exit, _reason ->
      {:error, Error.new(:context_down, "the function given as `:token` exited; check that what it calls is running.")}
  end

  defp not_running(connection, reason) do
    Error.new(:context_down, "the connection #{inspect(connection)} is not running: #{reason}")
  end

  # A function, since a table's content is shown where a token must not be.
  # It captures the token alone: each lookup copies what it captures.
  defp headers_function(%{token: token}), do: fn -> authorization(token) end

  defp authorization(nil), do: []
  defp authorization(token) when is_function(token, 0), do: authorization(token.())
  defp authorization(token), do: [{"authorization", "Bearer " <> token}]

  @impl true
  def init(options) do
    Process.flag(:trap_exit, true)
    circuits = Circuits.new(length(options.targets))
    {transport, _argument} = options.transport
    opened = Enum.map(options.targets, &{Target.label(&1), transport.open(&1, options)})

    registry =
      Processes.register(%{
        circuits: circuits,
        gateways: List.to_tuple(opened),
        transport: transport,
        headers: headers_function(options),
        pubsub: options.pubsub
      })

    gateways =
      for {{label, gateway}, index} <- Enum.with_index(opened), into: %{} do
        {index, %{label: label, gateway: gateway, check: nil, timer: nil, attempt: 0, last: nil}}
      end

    state = %__MODULE__{options: options, registry: registry, circuits: circuits, gateways: gateways}
    {:ok, state, {:continue, :check}}
  end

  @impl true
  def handle_continue(:check, state), do: {:noreply, Enum.reduce(Map.keys(state.gateways), state, &check(&2, &1))}

  @impl true
  def handle_call({:await_up, timeout}, from, state) do
    case Circuits.next_up(state.circuits, map_size(state.gateways)) do
      nil -> {:noreply, wait(state, from, timeout)}
      index -> {:reply, {:ok, index}, state}
    end
  end

  @impl true
  def handle_cast({:went_down, index, error}, state), do: {:noreply, state |> went_down(index, error) |> retry(index)}
  def handle_cast({:check, index}, state), do: {:noreply, check(state, index)}

  @impl true
  def handle_info({:check, index}, state), do: {:noreply, state |> put(index, timer: nil) |> check(index)}

  def handle_info({:DOWN, ref, :process, _pid, reason}, state) do
    case Enum.find(state.gateways, fn {_index, gateway} -> gateway.check == ref end) do
      {index, _gateway} -> {:noreply, state |> put(index, check: nil) |> checked(index, reason)}
      nil -> {:noreply, state}
    end
  end

  def handle_info({:expired, from}, state) do
    {timer, waiting} = Map.pop(state.waiting, from)
    if timer, do: GenServer.reply(from, {:error, unavailable(state)})
    {:noreply, %{state | waiting: waiting}}
  end

  # Its pools and its registry are linked: without one of them nothing works, and its supervisor restarts it.
  def handle_info({:EXIT, _linked, reason}, state), do: {:stop, reason, state}
  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  # Streams end with it, which read this.
  def terminate(_reason, state) do
    for {index, _gateway} <- state.gateways, do: Circuits.set(state.circuits, index, :down)
    :ok
  end

  @impl true
  # The options hide their token when inspected.
  def format_status(status), do: Map.replace(status, :message, :hidden)

  # By a process of its own, which may take its time: nobody waits for this one meanwhile.
  defp check(state, index) do
    %{check: running, timer: timer, gateway: gateway} = state.gateways[index]

    if running do
      state
    else
      cancel(timer)
      %{transport: {transport, _argument}, check_timeout: timeout} = state.options
      {_pid, ref} = spawn_monitor(__MODULE__, :run_check, [transport, gateway, timeout])
      put(state, index, check: ref, timer: nil)
    end
  end

  @doc false
  # Its result is the reason of its end, which whoever monitors it gets.
  @spec run_check(module, term, timeout) :: no_return
  def run_check(transport, gateway, timeout), do: exit({:checked, transport.check(gateway, timeout)})

  defp checked(state, index, {:checked, :ok}), do: state |> came_up(index) |> schedule(index, state.options.keepalive)

  defp checked(state, index, {:checked, {:error, error}}) do
    news? = Circuits.set(state.circuits, index, :down)
    state = if news?, do: went_down(state, index, error), else: put(state, index, last: error)
    retry(state, index)
  end

  defp checked(state, index, crash), do: checked(state, index, {:checked, {:error, crashed(crash)}})

  defp came_up(state, index) do
    gateway = state.gateways[index]

    if Circuits.set(state.circuits, index, :up) do
      :telemetry.execute([:dspex_fleet, :connection, :up], %{attempts: gateway.attempt}, about(gateway))
    end

    for {from, timer} <- state.waiting do
      cancel(timer)
      GenServer.reply(from, {:ok, index})
    end

    put(%{state | waiting: %{}}, index, attempt: 0, last: nil)
  end

  defp went_down(state, index, error) do
    metadata = Map.put(about(state.gateways[index]), :reason, error)
    :telemetry.execute([:dspex_fleet, :connection, :down], %{}, metadata)
    put(state, index, last: error)
  end

  defp retry(state, index) do
    {base, cap} = state.options.backoff
    attempt = state.gateways[index].attempt
    state |> put(index, attempt: attempt + 1) |> schedule(index, Backoff.delay(attempt, base, cap))
  end

  defp schedule(state, _index, :infinity), do: state

  defp schedule(state, index, pause) do
    cancel(state.gateways[index].timer)
    put(state, index, timer: Process.send_after(self(), {:check, index}, pause))
  end

  defp cancel(timer) when is_reference(timer) do
    _left = Process.cancel_timer(timer)
    :ok
  end

  defp cancel(_no_timer), do: :ok

  defp put(state, index, changes) do
    %{state | gateways: Map.update!(state.gateways, index, &Map.merge(&1, Map.new(changes)))}
  end

  defp wait(state, from, timeout) do
    timer = if timeout == :infinity, do: :none, else: Process.send_after(self(), {:expired, from}, timeout)
    put_in(state.waiting[from], timer)
  end

  defp about(gateway), do: %{connection: self(), target: gateway.label}

  defp crashed(reason), do: Error.new(:gateway_unavailable, "the check of the gateway failed: #{inspect(reason)}")

  defp unavailable(state) do
    reasons = for {_index, %{last: %Error{} = error}} <- state.gateways, do: error.message
    labels = state.gateways |> Enum.sort() |> Enum.map_join(", ", fn {_index, gateway} -> gateway.label end)

    Error.new(:gateway_unavailable, Enum.join(["no gateway is up in time: #{labels}" | reasons], "; "),
      status: :unavailable
    )
  end
end
