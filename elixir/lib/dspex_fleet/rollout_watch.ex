defmodule DSPexFleet.RolloutWatch do
  @moduledoc false
  # A subscription to the events of a target's rollouts: a process that ends with its subscriber.

  use GenServer, restart: :transient

  alias DSPexFleet.{RolloutEvent, Session, StreamReader}

  @supervisor DSPexFleet.RolloutWatch.Supervisor
  @registry DSPexFleet.Replicas

  @doc "Starts a watch for the calling process and returns its reference."
  @spec start(Session.t(), String.t(), String.t() | nil) :: {:ok, reference}
  def start(session, target, position) do
    ref = make_ref()
    watch = %{ref: ref, subscriber: self(), connection: session.connection, target: target, after: position}
    spec = %{id: ref, start: {GenServer, :start_link, [__MODULE__, watch]}, restart: :transient}
    {:ok, _pid} = DynamicSupervisor.start_child(@supervisor, spec)
    {:ok, ref}
  end

  @doc "Ends a watch."
  @spec stop(reference) :: :ok
  def stop(ref) do
    case Registry.lookup(@registry, ref) do
      [{pid, _value}] -> GenServer.stop(pid)
      [] -> :ok
    end
  catch
    :exit, _reason -> :ok
  end

  @impl true
  def init(watch) do
    Process.flag(:trap_exit, true)
    {:ok, _registry} = Registry.register(@registry, watch.ref, nil)
    message = if watch.after, do: %{"target" => watch.target, "after" => watch.after}, else: %{"target" => watch.target}
    reader = StreamReader.start_link(watch.connection, "Rollouts.Watch", message, "position")
    Process.monitor(watch.subscriber)
    {:ok, Map.put(watch, :reader, reader)}
  end

  @impl true
  def handle_info({reader, event}, %{reader: reader} = watch), do: handle_event(event, watch)
  def handle_info({:DOWN, _ref, :process, _subscriber, _reason}, watch), do: {:stop, :normal, watch}
  def handle_info({:EXIT, reader, reason}, %{reader: reader} = watch), do: {:stop, {:reader, reason}, watch}
  def handle_info(_other, watch), do: {:noreply, watch}

  @impl true
  def terminate(_reason, watch), do: Process.exit(watch.reader, :kill)

  defp handle_event({:message, message}, watch) do
    send(watch.subscriber, {:dspex_fleet, :rollout, RolloutEvent.from_message(message)})
    {:noreply, watch}
  end

  defp handle_event({:refused, error}, watch) do
    send(watch.subscriber, {:dspex_fleet, watch.ref, {:ended, error}})
    {:stop, :normal, watch}
  end

  defp handle_event(:resumed, watch), do: {:noreply, watch}

  defp handle_event({:interrupted, error}, watch) do
    send(watch.subscriber, {:dspex_fleet, watch.ref, {:interrupted, error}})
    {:noreply, watch}
  end
end
