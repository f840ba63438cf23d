defmodule DSPexFleet.Context do
  @moduledoc """
  A session of the fleet as a process: what the functions of this package take as their first argument.

      {:ok, ctx} = DSPexFleet.Context.start_link(session: "support", target: "127.0.0.1:50061")

  Under a supervisor, with a name by which any process can use it:

      children = [{DSPexFleet.Context, name: MyApp.Session, session: "support", target: "127.0.0.1:50061"}]

  ## Options

    * `:session` – the session's id; one is made up if there is none.
    * `:connection` – a running `DSPexFleet.Connection` to share. Without it the context starts its own and takes its
      options (`:target`, `:token`, `:tls` …).
    * `:name` – a name as for `GenServer.start_link/3`.

  The session itself lives on the fleet: it comes into being with the first publish, and outlives this process.
  """

  use GenServer

  alias DSPexFleet.{Call, Connection, Error, Watch}

  @type t :: GenServer.server()

  @doc "Starts a context; see the options above."
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts \\ []) do
    {name, opts} = Keyword.split(opts, [:name])
    GenServer.start_link(__MODULE__, opts, name)
  end

  @doc false
  def child_spec(opts) do
    %{id: Keyword.get(opts, :name, {__MODULE__, opts[:session]}), start: {__MODULE__, :start_link, [opts]}}
  end

  @doc "Returns the id of the context's session."
  @spec session(t) :: String.t()
  def session(context), do: GenServer.call(context, :session)

  @doc "Says whether the context has a connection to the gateway at this moment."
  @spec connected?(t) :: boolean
  def connected?(context), do: context |> GenServer.call(:connection) |> Connection.connected?()

  @doc false
  @spec lookup(t) :: {:ok, String.t(), Connection.server()} | {:error, Error.t()}
  def lookup(context), do: ask(context, :lookup)

  @doc false
  @spec start_watch(t, keyword) :: {:ok, reference} | {:error, Error.t()}
  def start_watch(context, opts), do: ask(context, {:watch, opts})

  @doc false
  @spec stop_watch(t, reference) :: :ok | {:error, Error.t()}
  def stop_watch(context, ref), do: ask(context, {:unwatch, ref})

  defp ask(context, request) do
    GenServer.call(context, request)
  catch
    :exit, {reason, _call} ->
      {:error, Error.new("ContextDown", "the context #{inspect(context)} is not running: #{inspect(reason)}")}
  end

  @impl true
  def init(opts) do
    Process.flag(:trap_exit, true)
    {session, opts} = Keyword.pop_lazy(opts, :session, fn -> "elixir-" <> Call.fresh_id() end)

    with {:ok, connection, owned} <- connection(opts) do
      {:ok, %{session: session, connection: connection, owned: owned, watches: %{}}}
    end
  end

  defp connection(opts) do
    case Keyword.pop(opts, :connection) do
      {nil, opts} ->
        with {:ok, pid} <- Connection.start_link(opts), do: {:ok, pid, pid}

      {connection, []} ->
        {:ok, connection, nil}

      {_connection, opts} ->
        {:stop, ArgumentError.exception("#{inspect(Keyword.keys(opts))} belong to the connection that is shared")}
    end
  end

  @impl true
  def handle_call(:session, _from, state), do: {:reply, state.session, state}
  def handle_call(:connection, _from, state), do: {:reply, state.connection, state}
  def handle_call(:lookup, _from, state), do: {:reply, {:ok, state.session, state.connection}, state}

  def handle_call({:watch, opts}, _from, state) do
    ref = make_ref()
    {:ok, pid} = Watch.start_link([ref: ref, session: state.session, connection: state.connection] ++ opts)
    {:reply, {:ok, ref}, put_in(state.watches[ref], pid)}
  end

  def handle_call({:unwatch, ref}, _from, state) do
    {pid, watches} = Map.pop(state.watches, ref)
    if pid, do: stop(pid)
    {:reply, :ok, %{state | watches: watches}}
  end

  @impl true
  # A connection of its own is part of the context: a supervisor starts both anew.
  def handle_info({:EXIT, pid, reason}, %{owned: pid} = state) when is_pid(pid), do: {:stop, reason, state}

  def handle_info({:EXIT, pid, reason}, state) do
    case Enum.find(state.watches, fn {_ref, watch} -> watch == pid end) do
      {ref, _pid} -> {:noreply, %{state | watches: Map.delete(state.watches, ref)}}
      nil when reason == :normal -> {:noreply, state}
      nil -> {:stop, reason, state}
    end
  end

  def handle_info(_late_reply, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, %{owned: pid}) when is_pid(pid), do: stop(pid)
  def terminate(_reason, _state), do: :ok

  defp stop(pid) do
    GenServer.stop(pid)
  catch
    :exit, _reason -> :ok
  end
end
