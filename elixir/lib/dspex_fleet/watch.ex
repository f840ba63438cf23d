defmodule DSPexFleet.Watch do
  @moduledoc false
  # One watch: a process that lives as long as its subscriber, and a linked reader that blocks on the stream and reopens
  # it behind the last message. What is watched is a source: `Watch.Variables` or `Watch.Rollouts`.

  use GenServer

  alias DSPexFleet.{Call, Connection, Error}
  alias DSPexFleet.Connection.Backoff

  @final [:invalid_argument, :permission_denied, :unauthenticated, :unimplemented]

  @doc "Returns the stub, its method and the request that reopens the stream."
  @callback request(t) :: {module, atom, struct}
  @doc "Returns `after` as the source compares it."
  @callback position(term) :: term
  @doc "Returns a reply of the stream as the source's value."
  @callback decode(struct) :: {:ok, term} | {:error, Error.t()}
  @doc "Returns the message for a value and the position behind it, or `:known` for one that was sent before."
  @callback deliver(term, t) :: {term, term} | :known

  @type t :: %__MODULE__{}

  defstruct [
    :ref,
    :session,
    :connection,
    :subscriber,
    :target,
    :after,
    source: DSPexFleet.Watch.Variables,
    names: [],
    tries: 0,
    interrupted: false
  ]

  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts), do: GenServer.start_link(__MODULE__, struct!(__MODULE__, opts))

  @impl true
  def init(watch) do
    Process.flag(:trap_exit, true)
    Process.monitor(watch.subscriber)
    {:ok, %{watch: watch, reader: spawn_link(fn -> read(%{watch | after: watch.source.position(watch.after)}) end)}}
  end

  @impl true
  def handle_info({:DOWN, _ref, :process, _subscriber, _reason}, state), do: {:stop, :normal, state}
  def handle_info({:EXIT, reader, :normal}, %{reader: reader} = state), do: {:stop, :normal, state}

  def handle_info({:EXIT, reader, reason}, %{reader: reader} = state) do
    notify(state.watch, {:ended, Error.new(:bad_answer, "the watch failed: #{Exception.format_exit(reason)}")})
    {:stop, :normal, state}
  end

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state), do: Process.exit(state.reader, :kill)

  defp read(watch) do
    with {:ok, channel, metadata} <- Connection.channel(watch.connection, :infinity),
         {:ok, replies} <- Call.send_once(channel, metadata, watch.source.request(watch), :infinity) do
      Enum.reduce_while(replies, {:closed, watch}, fn reply, {_outcome, watch} -> handle_reply(reply, watch) end)
    else
      {:error, error} -> {{:failed, error}, watch}
    end
    |> continue()
  end

  defp handle_reply({:ok, wire}, watch) do
    case watch.source.decode(wire) do
      {:ok, value} -> {:cont, {:closed, deliver(value, watch)}}
      {:error, error} -> {:halt, {{:failed, error}, watch}}
    end
  end

  defp handle_reply({:error, %GRPC.RPCError{} = error}, watch), do: {:halt, {{:failed, Error.from_rpc(error)}, watch}}
  defp handle_reply(_trailers, watch), do: {:cont, {:closed, watch}}

  defp deliver(value, watch) do
    case watch.source.deliver(value, watch) do
      {message, position} ->
        send(watch.subscriber, message)
        %{watch | after: position, tries: 0, interrupted: false}

      :known ->
        watch
    end
  end

  # A draining gateway closes its streams normally; reconnect at once.
  defp continue({:closed, watch}), do: pause(watch)

  defp continue({{:failed, %Error{status: status} = error}, watch}) when status in @final,
    do: notify(watch, {:ended, error})

  # The store has lost the last revision received, so restart from its current one.
  defp continue({{:failed, %Error{reason: :revision_lost} = error}, watch}),
    do: pause(%{interrupt(watch, error) | after: nil})

  defp continue({{:failed, error}, watch}), do: watch |> interrupt(error) |> pause()

  defp interrupt(%{interrupted: true} = watch, _error), do: watch

  # A gateway that is shutting down, and a stream past its maximum duration, are replaced in a moment.
  defp interrupt(%{tries: 0} = watch, %Error{reason: reason}) when reason in [:draining, :stream_ended], do: watch

  defp interrupt(watch, error) do
    notify(watch, {:interrupted, error})
    %{watch | interrupted: true}
  end

  defp pause(watch) do
    Process.sleep(Backoff.delay(watch.tries, 50, 5_000))
    read(%{watch | tries: watch.tries + 1})
  end

  defp notify(watch, event), do: send(watch.subscriber, {:dspex_fleet, watch.ref, event})
end
