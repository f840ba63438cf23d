defmodule DSPexFleet.StreamReader do
  @moduledoc false
  # A process that reads a stream of the gateway for ever: it reopens it behind the last message, on another gateway if
  # need be, and sends its owner
  #
  #   * `{reader, {:message, message}}` – in order;
  #   * `{reader, {:interrupted, error}}` – once until it is `{reader, :resumed}`; it goes on trying;
  #   * `{reader, {:refused, error}}` – the last, since trying again would not help.

  alias DSPexFleet.{Call, Connection, Error}
  alias DSPexFleet.Connection.Backoff

  @final [:invalid_argument, :permission_denied, :unauthenticated, :unimplemented]

  @enforce_keys [:owner, :connection, :operation, :message, :position]
  defstruct [:owner, :connection, :operation, :message, :position, tries: 0, interrupted: false]

  @doc """
  Starts a reader that is linked to its owner.

  `message` is the request, in whose field `"after"` each message's field `position` is sent when the stream is reopened.
  """
  @spec start_link(Connection.server(), String.t(), map, position :: String.t()) :: pid
  def start_link(connection, operation, message, position) do
    reader = %__MODULE__{
      owner: self(),
      connection: connection,
      operation: operation,
      message: message,
      position: position
    }

    spawn_link(fn -> read(reader) end)
  end

  defp read(reader) do
    case Connection.choose(reader.connection, choosing_ms(reader)) do
      {:ok, choice} ->
        read_stream(choice, reader)

      {:error, error} ->
        {{:failed, error}, reader}
    end
    |> continue()
  end

  # Whatever a message or a transport does to it is an interruption like any other, and tried again after a pause:
  # without one, a reader that fails at once would be started again and again.
  defp read_stream(choice, reader) do
    choice
    |> Call.stream(reader.operation, reader.message)
    |> Enum.reduce_while({:closed, reader}, fn result, {_outcome, reader} -> handle_result(result, reader) end)
  rescue
    exception -> {{:failed, failed(Exception.message(exception))}, reader}
  catch
    :exit, reason -> {{:failed, failed(Exception.format_exit(reason))}, reader}
  end

  defp failed(why), do: Error.new(:bad_answer, "the stream failed: #{why}")

  # Subscribers are told of an outage after this long, and again nothing until it is over.
  defp choosing_ms(%{interrupted: true}), do: :infinity
  defp choosing_ms(_reader), do: 500

  defp handle_result(:open, reader) do
    if reader.interrupted, do: notify(reader, :resumed)
    {:cont, {:closed, %{reader | interrupted: false}}}
  end

  defp handle_result({:ok, message}, reader) do
    notify(reader, {:message, message})
    request = Map.put(reader.message, "after", Map.get(message, reader.position, ""))
    {:cont, {:closed, %{reader | message: request, tries: 0}}}
  end

  defp handle_result({_failed, %Error{} = error}, reader), do: {:halt, {{:failed, error}, reader}}

  defp continue({:closed, reader}), do: pause(reader)

  defp continue({{:failed, %Error{status: status} = error}, reader}) when status in @final,
    do: notify(reader, {:refused, error})

  # The store has lost the last revision received, so restart from its current one.
  defp continue({{:failed, %Error{reason: :revision_lost} = error}, reader}),
    do: reader |> interrupt(error) |> Map.update!(:message, &Map.delete(&1, "after")) |> pause()

  # A connection with a name may be started again, one without can't.
  defp continue({{:failed, %Error{reason: :context_down} = error}, %{connection: pid} = reader}) when is_pid(pid) do
    if Process.alive?(pid), do: reader |> interrupt(error) |> pause(), else: notify(reader, {:refused, error})
  end

  defp continue({{:failed, error}, reader}), do: reader |> interrupt(error) |> pause()

  defp interrupt(%{interrupted: true} = reader, _error), do: reader

  # What a stream loses when its gateway stops, or after its longest duration, is back in a moment.
  defp interrupt(%{tries: 0} = reader, %Error{reason: reason})
       when reason in [:draining, :stream_ended, :gateway_unavailable],
       do: reader

  defp interrupt(reader, error) do
    notify(reader, {:interrupted, error})
    %{reader | interrupted: true}
  end

  defp pause(reader) do
    Process.sleep(Backoff.delay(reader.tries, 20, 5_000))
    read(%{reader | tries: reader.tries + 1})
  end

  defp notify(reader, event), do: send(reader.owner, {self(), event})
end
