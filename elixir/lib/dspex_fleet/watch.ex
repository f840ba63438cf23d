defmodule DSPexFleet.Watch do
  @moduledoc false
  # One watch: a process that lives as long as its subscriber, and a linked reader that blocks on the stream and reopens
  # it from the last token.

  use GenServer

  alias Dspex.Fleet.V1
  alias DSPexFleet.{Call, Connection, Error, Snapshot, Token}
  alias DSPexFleet.Connection.Backoff

  @final [:invalid_argument, :permission_denied, :unauthenticated, :unimplemented]

  defstruct [:ref, :session, :connection, :subscriber, :after, names: [], tries: 0, interrupted: false]

  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts), do: GenServer.start_link(__MODULE__, struct!(__MODULE__, opts))

  @impl true
  def init(watch) do
    Process.flag(:trap_exit, true)
    Process.monitor(watch.subscriber)
    {:ok, %{watch: watch, reader: spawn_link(fn -> read(at_token(watch)) end)}}
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

  defp at_token(%{after: text} = watch) when is_binary(text), do: %{watch | after: Token.parse!(text)}
  defp at_token(watch), do: watch

  defp read(watch) do
    with {:ok, channel, metadata} <- Connection.channel(watch.connection, :infinity),
         {:ok, replies} <- Call.send_once(channel, metadata, {V1.Variables.Stub, :watch, request(watch)}, :infinity) do
      Enum.reduce_while(replies, {:closed, watch}, fn reply, {_outcome, watch} -> handle_reply(reply, watch) end)
    else
      {:error, error} -> {{:failed, error}, watch}
    end
    |> continue()
  end

  defp request(watch) do
    %V1.WatchRequest{
      session: watch.session,
      names: Enum.map(watch.names, &to_string/1),
      after: if(watch.after, do: to_string(watch.after), else: "")
    }
  end

  defp handle_reply({:ok, wire}, watch) do
    case Snapshot.from_wire(wire) do
      {:ok, snapshot} -> {:cont, {:closed, deliver(snapshot, watch)}}
      {:error, error} -> {:halt, {{:failed, error}, watch}}
    end
  end

  defp handle_reply({:error, %GRPC.RPCError{} = error}, watch), do: {:halt, {{:failed, Error.from_rpc(error)}, watch}}
  defp handle_reply(_trailers, watch), do: {:cont, {:closed, watch}}

  defp deliver(snapshot, watch) do
    if watch.after == nil or Token.compare(snapshot.token, watch.after) == :gt do
      measured = %{staleness_s: snapshot.staleness_s}
      :telemetry.execute([:dspex_fleet, :watch, :snapshot], measured, %{session: watch.session, token: snapshot.token})
      notify(watch, {:snapshot, snapshot})
      %{watch | after: snapshot.token, tries: 0, interrupted: false}
    else
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
