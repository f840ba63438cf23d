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

  @type variable_type :: :float | :integer | :string | :boolean | :choice | :module | :embedding | :tensor

  @types ~w(float integer string boolean choice module embedding tensor)a
  @texts ~w(string choice module)a
  @spelled %{nan: "NaN", infinity: "Infinity", neg_infinity: "-Infinity"}
  @read Map.new(@spelled, fn {atom, text} -> {text, atom} end)

  @doc "Returns the types that a variable can have."
  @spec types() :: [variable_type]
  def types, do: @types

  @doc false
  @spec encode(term, variable_type | nil) :: {:ok, binary} | {:error, Error.t()}
  def encode(value, type \\ nil) do
    {:ok, value |> plain(type) |> JSON.encode!()}
  rescue
    error in [ArgumentError, Protocol.UndefinedError, ErlangError, FunctionClauseError] ->
      {:error,
       Error.new(:invalid_value, "#{inspect(value, limit: 10)} can't be encoded as JSON: #{Exception.message(error)}")}
  end

  @doc false
  @spec decode(binary, variable_type | nil) :: {:ok, term} | {:error, Error.t()}
  def decode(json, type \\ nil) do
    case JSON.decode(json) do
      {:ok, value} ->
        {:ok, typed(value, type)}

      {:error, reason} ->
        {:error, Error.new(:bad_answer, "the gateway sent a value that isn't JSON: #{inspect(reason)}")}
    end
  end

  defp plain(value, type) when is_atom(value) and type in @texts, do: Atom.to_string(value)
  defp plain(value, type) when type in @texts, do: value
  defp plain(value, _type), do: spelled(value)

  defp spelled(value) when is_map_key(@spelled, value), do: Map.fetch!(@spelled, value)
  defp spelled(list) when is_list(list), do: Enum.map(list, &spelled/1)

  defp spelled(map) when is_map(map) and not is_struct(map),
    do: Map.new(map, fn {key, item} -> {key, spelled(item)} end)

  defp spelled(value), do: value

  defp typed(value, type) when type in [:float, :embedding], do: read(value)
  defp typed(%{"shape" => shape, "data" => data}, :tensor), do: %{shape: shape, data: read(data)}
  defp typed(value, _type), do: value

  defp read(list) when is_list(list), do: Enum.map(list, &read/1)
  defp read(value) when is_map_key(@read, value), do: Map.fetch!(@read, value)
  defp read(value), do: value
end
