defmodule DSPexFleet.Token do
  @moduledoc """
  The identifier of one state of one session, `epoch.revision`, as every publish returns it.

  Tokens of one session compare in publish order. A store that lost a part of its data begins a new epoch, so a
  token of the new epoch is later than any of the old one. Functions that take a token also take its string.

      iex> token = DSPexFleet.Token.parse!("1764000000000000.7")
      iex> to_string(token)
      "1764000000000000.7"
      iex> DSPexFleet.Token.compare(token, DSPexFleet.Token.parse!("1764000000000000.12"))
      :lt
  """

  @type t :: %__MODULE__{epoch: non_neg_integer, revision: non_neg_integer}

  @enforce_keys [:epoch, :revision]
  defstruct [:epoch, :revision]

  @doc "Parses `\"epoch.revision\"`; returns `:error` if the string isn't a token."
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
      :error -> raise ArgumentError, "expected a token epoch.revision, like 1764000000000000.7; got #{inspect(text)}"
    end
  end

  @doc "Compares two tokens in publish order, as `Enum.max/2` and `Enum.sort/2` need it."
  @spec compare(t, t) :: :lt | :eq | :gt
  def compare(%__MODULE__{} = first, %__MODULE__{} = second) do
    left = {first.epoch, first.revision}
    right = {second.epoch, second.revision}

    cond do
      left < right -> :lt
      left > right -> :gt
      true -> :eq
    end
  end

  defimpl String.Chars do
    @impl true
    def to_string(token), do: "#{token.epoch}.#{token.revision}"
  end

  defimpl Inspect do
    @impl true
    def inspect(token, _opts), do: "#DSPexFleet.Token<#{token}>"
  end
end
