defmodule DSPexFleet.Connection do
  @moduledoc """
  One connection to a gateway, shared by any number of contexts, that comes back by itself.

  A context starts one of its own unless it is given one. An application with many sessions starts one and names it:

      children = [
        {DSPexFleet.Connection, name: MyApp.Fleet, target: "gateway.internal:50061", tls: true, token: &MyApp.token/0},
        {DSPexFleet.Context, name: MyApp.Session, connection: MyApp.Fleet, session: "support"}
      ]

  Starting never waits for the gateway and never fails because of it. Calls made while there is no connection wait for
  one, each within its own timeout.

  ## Options

    * `:target` – `"host:port"`, `"[ipv6]:port"`, or a target of the `grpc` package such as `"dns://…"`. Default
      `"127.0.0.1:50061"`, or `config :dspex_fleet, target: …`.
    * `:token` – the bearer token, or a function that returns it and is asked before each call. The package
      logs neither, but a supervisor's reports print what its children were started with: a function keeps it out of them.
    * `:tls` – `true` for TLS with the system's certificates, or a keyword list for `:ssl`, such as
      `[cacertfile: …, certfile: …, keyfile: …]` with a client certificate. Peers are verified unless it says otherwise.
    * `:insecure` – `true` lets a token travel in clear to a host that isn't this one. Default `false`.
    * `:keepalive` – milliseconds between the pings by which a dead network is noticed, or `:infinity`. Default 20,000.
    * `:backoff` – `{first, longest}` pause between attempts to connect, in milliseconds. Default `{100, 5_000}`.
    * `:name` – a name as for `GenServer.start_link/3`.
  """

  use GenServer

  alias DSPexFleet.Connection.{Adapter, Backoff, Events, Flights, Options}
  alias DSPexFleet.Error

  @type server :: GenServer.server()

  defstruct [
    :options,
    :flights,
    :channel,
    :opening,
    :monitor,
    :tag,
    stands?: false,
    attempt: 0,
    last: nil,
    waiting: %{}
  ]

  @doc "Starts a connection; see the options above."
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts \\ []) do
    {name, opts} = Keyword.split(opts, [:name])
    GenServer.start_link(__MODULE__, Options.new!(opts), name)
  end

  @doc "Says whether the connection stands at this moment."
  @spec connected?(server) :: boolean
  def connected?(connection), do: GenServer.call(connection, :connected?)

  @doc false
  # The channel to call on and the metadata to send along; waits up to `timeout` milliseconds for a connection.
  @spec channel(server, timeout) :: {:ok, GRPC.Channel.t(), map} | {:error, Error.t()}
  def channel(connection, timeout) do
    with {:ok, channel, token} <- GenServer.call(connection, {:channel, timeout}, :infinity) do
      {:ok, channel, metadata(token)}
    end
  catch
    :exit, {reason, _call} ->
      {:error, Error.new("ContextDown", "the connection #{inspect(connection)} is not running: #{inspect(reason)}")}
  end

  defp metadata(nil), do: %{}
  defp metadata(token) when is_function(token, 0), do: metadata(token.())
  defp metadata(token), do: %{"authorization" => "Bearer " <> token}

  @impl true
  def init(options) do
    # So that `terminate/2` closes the socket, which belongs to the gRPC package's own supervisor.
    Process.flag(:trap_exit, true)
    {:ok, %__MODULE__{options: options, flights: Flights.new()}, {:continue, :open}}
  end

  @impl true
  def handle_continue(:open, state) do
    tag = make_ref()
    owner = self()
    events = Events.options(owner, tag, state.flights, state.options.backoff)
    stub_options = stub_options(state.options, [flights: state.flights] ++ events)
    target = state.options.target
    opening = Task.async(fn -> GRPC.Stub.connect(target, stub_options) end)
    {:noreply, %{state | opening: opening, tag: tag}}
  end

  @impl true
  def handle_call(:connected?, _from, state), do: {:reply, ready?(state), state}

  def handle_call({:channel, timeout}, from, state) do
    if ready?(state), do: {:reply, answer(state), state}, else: {:noreply, wait(state, from, timeout)}
  end

  @impl true
  def handle_info({ref, {:ok, channel}}, %{opening: %Task{ref: ref}} = state) do
    Process.demonitor(ref, [:flush])
    monitor = Process.monitor(channel.adapter_payload.conn_pid)
    {:noreply, opened(%{state | opening: nil, channel: channel, monitor: monitor})}
  end

  def handle_info({ref, {:error, reason}}, %{opening: %Task{ref: ref}} = state) do
    Process.demonitor(ref, [:flush])
    {:noreply, again(%{state | opening: nil, last: state.last || reason})}
  end

  def handle_info({:DOWN, ref, :process, _pid, reason}, %{opening: %Task{ref: ref}} = state) do
    {:noreply, again(%{state | opening: nil, last: reason})}
  end

  def handle_info({:DOWN, ref, :process, _pid, reason}, %{monitor: ref} = state) do
    Flights.broke(state.flights, reason)
    {:noreply, state |> fell(reason) |> close() |> again()}
  end

  def handle_info({tag, :up}, %{tag: tag} = state), do: {:noreply, opened(%{state | stands?: true})}
  def handle_info({tag, {:down, reason}}, %{tag: tag} = state), do: {:noreply, fell(state, reason)}

  def handle_info({:expired, from}, state) do
    {timer, waiting} = Map.pop(state.waiting, from)
    if timer, do: GenServer.reply(from, {:error, unavailable(state)})
    {:noreply, %{state | waiting: waiting}}
  end

  def handle_info(:open, state), do: {:noreply, state, {:continue, :open}}
  def handle_info(_from_an_older_socket, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state), do: close(state)

  @impl true
  # Options keep their token to themselves, and the channel holds none.
  def format_status(status), do: Map.replace(status, :message, :hidden)

  defp ready?(state), do: state.stands? and state.channel != nil

  defp answer(state), do: {:ok, state.channel, state.options.token}

  defp wait(state, from, timeout) do
    timer = if timeout == :infinity, do: :none, else: Process.send_after(self(), {:expired, from}, timeout)
    put_in(state.waiting[from], timer)
  end

  # A connection is ready when its socket stands and the gRPC package has handed its channel over, in either order.
  defp opened(state) do
    if ready?(state), do: announce(state), else: state
  end

  defp announce(state) do
    :telemetry.execute([:dspex_fleet, :connection, :up], %{attempts: state.attempt}, about(state))

    for {from, timer} <- state.waiting do
      if timer != :none, do: Process.cancel_timer(timer)
      GenServer.reply(from, answer(state))
    end

    %{state | waiting: %{}, attempt: 0, last: nil}
  end

  defp fell(state, reason) do
    if ready?(state) do
      :telemetry.execute([:dspex_fleet, :connection, :down], %{}, Map.put(about(state), :reason, reason))
    end

    %{state | stands?: false, last: reason}
  end

  defp again(state) do
    {base, cap} = state.options.backoff
    Process.send_after(self(), :open, Backoff.delay(state.attempt, base, cap))
    %{state | attempt: state.attempt + 1}
  end

  defp close(%{channel: nil} = state), do: state

  defp close(state) do
    Process.demonitor(state.monitor, [:flush])

    try do
      GRPC.Stub.disconnect(state.channel)
    catch
      # It has ended before us.
      :exit, _reason -> :ok
    end

    %{state | channel: nil, monitor: nil, stands?: false}
  end

  defp stub_options(options, adapter_opts) do
    transport = [connect_timeout: 5_000, http2_opts: %{keepalive: options.keepalive, keepalive_tolerance: 2}]
    [adapter: Adapter, adapter_opts: transport ++ adapter_opts, cred: options.credential]
  end

  defp about(state), do: %{connection: self(), target: state.options.target}

  defp unavailable(state) do
    why = if state.last, do: ": #{inspect(state.last)}", else: ""

    Error.new(
      "GatewayUnavailable",
      "no connection to #{state.options.target} in time#{why}. Attempts go on; see that the gateway runs there."
    )
  end
end
