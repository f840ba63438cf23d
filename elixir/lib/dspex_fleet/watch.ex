defmodule DSPexFleet.Watch do
  @moduledoc false
  # One watch: a process that lives as long as its subscriber, and a reader below it that blocks on the stream and opens
  # it anew from where it was.

  use GenServer

  alias Dspex.Fleet.V1
  alias DSPexFleet.{Call, Connection, Error, Snapshot, Token}
  alias DSPexFleet.Connection.Backoff

  @final [:invalid_argument, :permission_denied, :unauthenticated, :unimplemented]

  defstruct [:ref, :session, :connection, :subscriber, :after, names: [], tries: 0, told: false]

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
    tell(state.watch, {:ended, Error.new("BadAnswer", "the watch can't read on: #{Exception.format_exit(reason)}")})
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
      Enum.reduce_while(replies, {:closed, watch}, fn reply, {_outcome, watch} -> take(reply, watch) end)
    else
      {:error, error} -> {{:failed, error}, watch}
    end
    |> go_on()
  end

  defp request(watch) do
    %V1.WatchRequest{
      session: watch.session,
      names: Enum.map(watch.names, &to_string/1),
      after: if(watch.after, do: to_string(watch.after), else: "")
    }
  end

  defp take({:ok, wire}, watch) do
    case Snapshot.from_wire(wire) do
      {:ok, snapshot} -> {:cont, {:closed, deliver(snapshot, watch)}}
      {:error, error} -> {:halt, {{:failed, error}, watch}}
    end
  end

  defp take({:error, %GRPC.RPCError{} = error}, watch), do: {:halt, {{:failed, Error.from_rpc(error)}, watch}}
  defp take(_trailers, watch), do: {:cont, {:closed, watch}}

  defp deliver(snapshot, watch) do
    if watch.after == nil or Token.compare(snapshot.token, watch.after) == :gt do
      measured = %{staleness_s: snapshot.staleness_s}
      :telemetry.execute([:dspex_fleet, :watch, :snapshot], measured, %{session: watch.session, token: snapshot.token})
      tell(watch, {:snapshot, snapshot})
      %{watch | after: snapshot.token, tries: 0, told: false}
    else
      watch
    end
  end

  # A gateway that drains closes its streams in good order; the next one is asked at once.
  defp go_on({:closed, watch}), do: pause(watch)

  defp go_on({{:failed, %Error{status: status} = error}, watch}) when status in @final, do: tell(watch, {:ended, error})

  # A store that lost the revision which we have gives what it has instead.
  defp go_on({{:failed, %Error{kind: "RevisionLostError"} = error}, watch}), do: pause(%{told(watch, error) | after: nil})

  defp go_on({{:failed, error}, watch}), do: watch |> told(error) |> pause()

  defp told(%{told: true} = watch, _error), do: watch

  # A gateway that goes, and a stream that was open for long, are followed by another in a moment.
  defp told(%{tries: 0} = watch, %Error{kind: kind}) when kind in ["DrainingError", "StreamEndedError"], do: watch

  defp told(watch, error) do
    tell(watch, {:interrupted, error})
    %{watch | told: true}
  end

  defp pause(watch) do
    Process.sleep(Backoff.delay(watch.tries, 50, 5_000))
    read(%{watch | tries: watch.tries + 1})
  end

  defp tell(watch, news), do: send(watch.subscriber, {:dspex_fleet, watch.ref, news})
end
