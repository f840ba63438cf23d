defmodule DSPexFleet.Variable do
  @moduledoc "A variable of a snapshot: a named value with its type and constraints. `DSPexFleet.Values` lists the types."

  alias Dspex.Fleet.V1
  alias DSPexFleet.{Error, Values}

  @type t :: %__MODULE__{
          name: String.t(),
          type: Values.variable_type() | nil,
          value: term,
          constraints: %{String.t() => term}
        }

  defstruct [:name, :type, :value, constraints: %{}]

  @to_wire Map.new(Values.types(), &{&1, :"VARIABLE_TYPE_#{String.upcase(to_string(&1))}"})
  @from_wire Map.new(@to_wire, fn {type, wire} -> {wire, type} end)

  @doc false
  @spec type_to_wire(Values.variable_type() | nil) :: {:ok, atom} | {:error, Error.t()}
  def type_to_wire(nil), do: {:ok, :VARIABLE_TYPE_UNSPECIFIED}
  def type_to_wire(type) when is_map_key(@to_wire, type), do: {:ok, Map.fetch!(@to_wire, type)}

  def type_to_wire(other) do
    {:error, Error.new(:invalid_value, "expected a type of #{inspect(Values.types())}, got: #{inspect(other)}")}
  end

  @doc false
  @spec all_from_wire([V1.Variable.t()]) :: {:ok, [t]} | {:error, Error.t()}
  def all_from_wire(wires), do: traverse(wires, &from_wire/1)

  @doc false
  @spec from_wire(V1.Variable.t() | nil) :: {:ok, t | nil} | {:error, Error.t()}
  def from_wire(nil), do: {:ok, nil}

  def from_wire(%V1.Variable{} = wire) do
    type = Map.get(@from_wire, wire.type)

    with {:ok, value} <- Values.decode(wire.value_json, type),
         {:ok, constraints} <- constraints(wire.constraints_json) do
      {:ok, %__MODULE__{name: wire.name, type: type, value: value, constraints: constraints}}
    end
  end

  @doc false
  # Returns a change as `{name, {before, after}}`; nil stands for a variable that isn't there.
  @spec change_from_wire(V1.VariableChange.t()) :: {:ok, {String.t(), {t | nil, t | nil}}} | {:error, Error.t()}
  def change_from_wire(%V1.VariableChange{} = wire) do
    with {:ok, before} <- from_wire(wire.before),
         {:ok, now} <- from_wire(Map.fetch!(wire, :after)) do
      {:ok, {wire.name, {before, now}}}
    end
  end

  @doc false
  # Maps a function over a list and returns all results, or the first error.
  @spec traverse(Enumerable.t(), (term -> {:ok, item} | {:error, Error.t()})) :: {:ok, [item]} | {:error, Error.t()}
        when item: term
  def traverse(items, fun) do
    items
    |> Enum.reduce_while([], fn item, results ->
      case fun.(item) do
        {:ok, result} -> {:cont, [result | results]}
        {:error, error} -> {:halt, {:error, error}}
      end
    end)
    |> case do
      {:error, error} -> {:error, error}
      results -> {:ok, Enum.reverse(results)}
    end
  end

  defp constraints(""), do: {:ok, %{}}
  defp constraints(json), do: Values.decode(json)
end
