defmodule DSPexFleet.Token do
  @moduledoc """
  The name of one state of one session, as every publish returns it: `epoch.revision`.

  Tokens of one session compare in publish order. An epoch is opened by a store that lost a part of its data, so a
  token of the new epoch is later than any of the old one. Functions that take a token also take its text.

      iex> token = DSPexFleet.Token.parse!("1764000000000000.7")
      iex> to_string(token)
      "1764000000000000.7"
      iex> DSPexFleet.Token.compare(token, DSPexFleet.Token.parse!("1764000000000000.12"))
      :lt
  """

  @type t :: %__MODULE__{epoch: non_neg_integer, revision: non_neg_integer}

  @enforce_keys [:epoch, :revision]
  defstruct [:epoch, :revision]

  @doc "Reads `\"epoch.revision\"`; `:error` if the text isn't a token."
  @spec parse(String.t()) :: {:ok, t} | :error
  def parse(text) do
    case Regex.run(~r/\A(\d{1,19})\.(\d{1,19})\z/, text) do
      [_, epoch, revision] ->
        {:ok, %__MODULE__{epoch: String.to_integer(epoch), revision: String.to_integer(revision)}}

      nil ->
        :error
    end
  end

  @doc "Like `parse/1`, but raises `ArgumentError`."
  @spec parse!(String.t()) :: t
  def parse!(text) do
    case parse(text) do
      {:ok, token} -> token
      :error -> raise ArgumentError, "a token reads epoch.revision, like 1764000000000000.7; got #{inspect(text)}"
    end
  end

  @doc "Says whether the first token is before (`:lt`), at (`:eq`) or after (`:gt`) the second, for `Enum.max/2` and the like."
  @spec compare(t, t) :: :lt | :eq | :gt
  def compare(%__MODULE__{} = one, %__MODULE__{} = other) do
    left = {one.epoch, one.revision}
    right = {other.epoch, other.revision}

    cond do
      left < right -> :lt
      left > right -> :gt
      true -> :eq
    end
  end

  defimpl String.Chars do
    def to_string(token), do: "#{token.epoch}.#{token.revision}"
  end

  defimpl Inspect do
    def inspect(token, _opts), do: "#DSPexFleet.Token<#{token}>"
  end
end
