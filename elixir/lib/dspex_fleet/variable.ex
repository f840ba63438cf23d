defmodule DSPexFleet.Variable do
  @moduledoc "A named value with its type and constraints, as a snapshot holds it. `DSPexFleet.Values` lists the types."

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
    {:error,
     Error.new("InvalidValue", "no variable has the type #{inspect(other)}; there are #{inspect(Values.types())}")}
  end

  @doc false
  @spec all_from_wire([V1.Variable.t()]) :: {:ok, [t]} | {:error, Error.t()}
  def all_from_wire(wires), do: gather(wires, &from_wire/1)

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
  # The results of a function over a list, or its first error.
  @spec gather(Enumerable.t(), (term -> {:ok, item} | {:error, Error.t()})) :: {:ok, [item]} | {:error, Error.t()}
        when item: term
  def gather(items, make) do
    items
    |> Enum.reduce_while([], fn item, made ->
      case make.(item) do
        {:ok, one} -> {:cont, [one | made]}
        {:error, error} -> {:halt, {:error, error}}
      end
    end)
    |> case do
      {:error, error} -> {:error, error}
      made -> {:ok, Enum.reverse(made)}
    end
  end

  defp constraints(""), do: {:ok, %{}}
  defp constraints(json), do: Values.decode(json)
end
