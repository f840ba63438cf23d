defmodule DSPexFleet.Connection do
  @moduledoc """
  A connection to a gateway that reconnects automatically and can be shared by any number of contexts.

  A context starts its own connection unless it is given one. An application with many sessions starts one under a name:

      children = [
        {DSPexFleet.Connection, name: MyApp.Fleet, target: "gateway.internal:50061", tls: true, token: &MyApp.token/0},
        {DSPexFleet.Context, name: MyApp.Session, connection: MyApp.Fleet, session: "support"}
      ]

  Starting doesn't wait for the gateway, and succeeds even if it is down. Calls made while disconnected wait for the
  connection, each within its own timeout.

  ## Options

    * `:target` – `"host:port"`, `"[ipv6]:port"`, or a target of the `grpc` package such as `"dns://…"`. Default
      `"127.0.0.1:50061"`, or `config :dspex_fleet, target: …`.
    * `:token` – the bearer token, or a function that returns it and is called before each call. The package
      never logs it, but supervisor reports include the arguments of children; a function keeps the token out of them.
    * `:tls` – `true` for TLS with the system's certificates, or a keyword list for `:ssl`, such as
      `[cacertfile: …, certfile: …, keyfile: …]` with a client certificate. Peers are verified by default.
    * `:insecure` – `true` allows sending a token unencrypted to another host. Default `false`.
    * `:keepalive` – milliseconds between keepalive pings, or `:infinity`. Default 20,000.
    * `:backoff` – `{first, longest}` pause between attempts to connect, in milliseconds. Default `{100, 5_000}`.
    * `:name` – a name as for `GenServer.start_link/3`.
  """

  use GenServer

  alias DSPexFleet.Connection.{Adapter, Backoff, InFlight, Options, SocketEvents}
  alias DSPexFleet.{Error, Processes}

  @type server :: GenServer.server()

  defstruct [
    :options,
    :registry,
    :in_flight,
    :channel,
    :connecting,
    :monitor,
    :tag,
    connected: false,
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

  @doc "Returns true if the connection is up."
  @spec connected?(server) :: boolean
  def connected?(connection), do: match?({:ok, {%GRPC.Channel{}, _metadata}}, Processes.fetch(connection))

  @doc false
  # Returns the channel and the metadata for a call; waits up to `timeout` milliseconds for a connection.
  @spec channel(server, timeout) :: {:ok, GRPC.Channel.t(), map} | {:error, Error.t()}
  def channel(connection, timeout) do
    case Processes.fetch(connection) do
      {:ok, {nil, metadata}} -> await_channel(connection, metadata, timeout)
      {:ok, {channel, metadata}} -> with_metadata(channel, metadata)
      :error -> {:error, not_running(connection, "no such process on this node")}
    end
  end

  defp await_channel(connection, metadata, timeout) do
    with {:ok, channel} <- ask(connection, {:channel, timeout}), do: with_metadata(channel, metadata)
  end

  defp ask(connection, request) do
    GenServer.call(connection, request, :infinity)
  catch
    :exit, {reason, _call} -> {:error, not_running(connection, inspect(reason))}
  end

  # The reason of the exit isn't shown, since it may contain the token.
  defp with_metadata(channel, metadata) do
    {:ok, channel, metadata.()}
  catch
    :exit, _reason ->
      {:error, Error.new(:context_down, "the function given as `:token` exited; check that what it calls is running.")}
  end

  defp not_running(connection, reason) do
    Error.new(:context_down, "the connection #{inspect(connection)} is not running: #{reason}")
  end

  # A function, since a table's content is shown where a token must not be.
  # It captures the token alone: each lookup copies what it captures.
  defp metadata_function(%{token: token}), do: fn -> metadata(token) end

  defp metadata(nil), do: %{}
  defp metadata(token) when is_function(token, 0), do: metadata(token.())
  defp metadata(token), do: %{"authorization" => "Bearer " <> token}

  @impl true
  def init(options) do
    # Ensures that `terminate/2` runs and closes the socket, which the gRPC package's own supervisor owns.
    Process.flag(:trap_exit, true)
    registry = Processes.register({nil, metadata_function(options)})
    {:ok, %__MODULE__{options: options, registry: registry, in_flight: InFlight.new()}, {:continue, :open}}
  end

  @impl true
  def handle_continue(:open, state) do
    tag = make_ref()
    owner = self()
    event_options = SocketEvents.options(owner, tag, state.in_flight, state.options.backoff)
    stub_options = stub_options(state.options, [in_flight: state.in_flight] ++ event_options)
    target = state.options.target
    connecting = Task.async(fn -> GRPC.Stub.connect(target, stub_options) end)
    {:noreply, %{state | connecting: connecting, tag: tag}}
  end

  @impl true
  def handle_call({:channel, timeout}, from, state) do
    if ready?(state), do: {:reply, {:ok, state.channel}, state}, else: {:noreply, wait(state, from, timeout)}
  end

  @impl true
  def handle_info({ref, {:ok, channel}}, %{connecting: %Task{ref: ref}} = state) do
    Process.demonitor(ref, [:flush])
    monitor = Process.monitor(channel.adapter_payload.conn_pid)
    # Only connecting needs the credential, whose key would show wherever the channel is inspected.
    channel = %{channel | cred: nil}
    {:noreply, announce_if_ready(%{state | connecting: nil, channel: channel, monitor: monitor})}
  end

  def handle_info({ref, {:error, reason}}, %{connecting: %Task{ref: ref}} = state) do
    Process.demonitor(ref, [:flush])
    {:noreply, schedule_reconnect(%{state | connecting: nil, last: state.last || reason})}
  end

  def handle_info({:DOWN, ref, :process, _pid, reason}, %{connecting: %Task{ref: ref}} = state) do
    {:noreply, schedule_reconnect(%{state | connecting: nil, last: reason})}
  end

  def handle_info({:DOWN, ref, :process, _pid, reason}, %{monitor: ref} = state) do
    InFlight.connection_lost(state.in_flight, reason)
    {:noreply, state |> mark_down(reason) |> close() |> schedule_reconnect()}
  end

  def handle_info({tag, :up}, %{tag: tag} = state), do: {:noreply, announce_if_ready(%{state | connected: true})}
  def handle_info({tag, {:down, reason}}, %{tag: tag} = state), do: {:noreply, mark_down(state, reason)}

  def handle_info({:expired, from}, state) do
    {timer, waiting} = Map.pop(state.waiting, from)
    if timer, do: GenServer.reply(from, {:error, unavailable(state)})
    {:noreply, %{state | waiting: waiting}}
  end

  def handle_info(:open, state), do: {:noreply, state, {:continue, :open}}

  # Nobody could find this process any more; its supervisor restarts it.
  def handle_info({:EXIT, registry, reason}, %{registry: registry} = state), do: {:stop, reason, state}
  def handle_info(_from_an_older_socket, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state), do: close(state)

  @impl true
  # The options hide their token when inspected, and the channel holds none.
  def format_status(status), do: Map.replace(status, :message, :hidden)

  defp ready?(state), do: state.connected and state.channel != nil

  defp wait(state, from, timeout) do
    timer = if timeout == :infinity, do: :none, else: Process.send_after(self(), {:expired, from}, timeout)
    put_in(state.waiting[from], timer)
  end

  # A connection is ready when its socket is up and the gRPC package has returned its channel, in either order.
  defp announce_if_ready(state) do
    if ready?(state), do: announce(state), else: state
  end

  defp announce(state) do
    Processes.update({state.channel, metadata_function(state.options)})
    :telemetry.execute([:dspex_fleet, :connection, :up], %{attempts: state.attempt}, about(state))

    for {from, timer} <- state.waiting do
      if timer != :none, do: Process.cancel_timer(timer)
      GenServer.reply(from, {:ok, state.channel})
    end

    %{state | waiting: %{}, attempt: 0, last: nil}
  end

  defp mark_down(state, reason) do
    if ready?(state) do
      Processes.update({nil, metadata_function(state.options)})
      :telemetry.execute([:dspex_fleet, :connection, :down], %{}, Map.put(about(state), :reason, reason))
    end

    %{state | connected: false, last: reason}
  end

  defp schedule_reconnect(state) do
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
      # The process has already exited.
      :exit, _reason -> :ok
    end

    %{state | channel: nil, monitor: nil, connected: false}
  end

  defp stub_options(options, adapter_opts) do
    transport = [connect_timeout: 5_000, http2_opts: %{keepalive: options.keepalive, keepalive_tolerance: 2}]
    [adapter: Adapter, adapter_opts: transport ++ adapter_opts, cred: options.credential]
  end

  defp about(state), do: %{connection: self(), target: state.options.target}

  defp unavailable(state) do
    why = if state.last, do: ": #{inspect(state.last)}", else: ""

    Error.new(
      :gateway_unavailable,
      "no connection to #{state.options.target} in time#{why}. Reconnecting continues; check that the gateway runs there."
    )
  end
end
