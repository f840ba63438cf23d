defmodule DSPexFleet.Values do
  @moduledoc """
  The mapping between Elixir values and the fleet's JSON.

  | variable type | Elixir | on the wire |
  | --- | --- | --- |
  | `:float` | float, or `:nan`, `:infinity`, `:neg_infinity` | number, or `"NaN"`, `"Infinity"`, `"-Infinity"` |
  | `:integer` | integer of any size | number |
  | `:string`, `:choice`, `:module` | string (an atom is sent as its name) | string |
  | `:boolean` | boolean | boolean |
  | `:embedding` | list of numbers | list of numbers |
  | `:tensor` | `%{shape: [2, 3], data: [...]}` | object of the same keys |

  Integers keep every digit, and `1` is distinct from `1.0`. In prediction inputs, whose types only the program knows, the
  three atoms are sent as strings, too; in outputs they come back as strings.
  """

  alias DSPexFleet.Error
  alias DSPexFleet.Transport.Encoded

  @type variable_type :: :float | :integer | :string | :boolean | :choice | :module | :embedding | :tensor

  @types ~w(float integer string boolean choice module embedding tensor)a
  @texts ~w(string choice module)a
  @spelled %{nan: "NaN", infinity: "Infinity", neg_infinity: "-Infinity"}
  @read Map.new(@spelled, fn {atom, text} -> {text, atom} end)

  @doc "Returns the types that a variable can have."
  @spec types() :: [variable_type]
  def types, do: @types

  @doc false
  # Returns a value as a part of a message.
  @spec encode(term, variable_type | nil) :: {:ok, Encoded.t()} | {:error, Error.t()}
  def encode(value, type \\ nil) do
    with {:ok, plain} <- plain(value, type), do: {:ok, %Encoded{json: JSON.encode!(plain)}}
  rescue
    error in [ArgumentError, Protocol.UndefinedError, ErlangError, FunctionClauseError] ->
      {:error,
       Error.new(:invalid_value, "#{inspect(value, limit: 10)} can't be encoded as JSON: #{Exception.message(error)}")}
  end

  @doc false
  # Returns a map or a keyword list as a part of a message.
  @spec encode_object(term, String.t()) :: {:ok, Encoded.t()} | {:error, Error.t()}
  def encode_object(given, what) do
    cond do
      is_map(given) and not is_struct(given) -> encode(given)
      Keyword.keyword?(given) -> given |> Map.new() |> encode()
      true -> {:error, Error.new(:invalid_value, "expected #{what} as a map, got: #{inspect(given, limit: 10)}")}
    end
  end

  @doc false
  # Returns the value of a message as Elixir has it.
  @spec decode(term, variable_type | nil) :: term
  def decode(value, type \\ nil)
  def decode(value, type) when type in [:float, :embedding], do: read(value)
  def decode(%{"shape" => shape, "data" => data}, :tensor), do: %{shape: shape, data: read(data)}
  def decode(value, _type), do: value

  defp plain(nil, type) when type in @types, do: refuse_value("nil is no value: delete the variable instead")

  defp plain(value, type) when is_atom(value) and type in @texts do
    case Atom.to_string(value) do
      "Elixir." <> alias -> refuse_value("the alias #{alias} is no text; write #{inspect(alias)}")
      text -> {:ok, text}
    end
  end

  defp plain(value, type) when type in @texts, do: {:ok, value}
  defp plain(value, _type), do: {:ok, spelled(value)}

  defp refuse_value(message), do: {:error, Error.new(:invalid_value, message)}

  defp spelled(value) when is_map_key(@spelled, value), do: Map.fetch!(@spelled, value)
  defp spelled(list) when is_list(list), do: Enum.map(list, &spelled/1)

  defp spelled(map) when is_map(map) and not is_struct(map),
    do: Map.new(map, fn {key, item} -> {key, spelled(item)} end)

  defp spelled(value) when is_atom(value), do: atom(Atom.to_string(value), value)
  defp spelled(value), do: value

  defp atom("Elixir." <> alias, _value),
    do: raise(ArgumentError, "the alias #{alias} is no text; write #{inspect(alias)}")

  defp atom(_text, value), do: value

  defp read(list) when is_list(list), do: Enum.map(list, &read/1)
  defp read(value) when is_map_key(@read, value), do: Map.fetch!(@read, value)
  defp read(value), do: value
end
