defmodule DSPexFleet.Transport.HTTP.EventStream do
  @moduledoc false
  # The parser of server-sent events, as the gateway sends them: an event has one line of data, and comments keep the
  # connection open.

  @type t :: {[binary], ends_line :: boolean}
  @type event :: {:message | :error, binary}

  @doc "Returns a parser that has seen nothing."
  @spec new() :: t
  def new, do: {[], false}

  @doc "Returns the events that are complete with more data, and the parser behind them."
  @spec parse(t, binary) :: {[event], t}
  def parse({pending, ends_line}, data) do
    # Large events come in many parts: they are joined when one is complete, and not each time.
    if String.contains?(data, "\n\n") or (ends_line and String.starts_with?(data, "\n")) do
      {blocks, [rest]} =
        [data | pending] |> Enum.reverse() |> IO.iodata_to_binary() |> String.split("\n\n") |> Enum.split(-1)

      {Enum.flat_map(blocks, &event/1), {if(rest == "", do: [], else: [rest]), String.ends_with?(rest, "\n")}}
    else
      {[], {[data | pending], String.ends_with?(data, "\n")}}
    end
  end

  defp event(block) do
    lines = String.split(block, "\n")
    kind = if "event: error" in lines, do: :error, else: :message
    for "data: " <> data <- lines, do: {kind, data}
  end
end
