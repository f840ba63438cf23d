defmodule DSPexFleet.Variable do
  @moduledoc "A variable of a snapshot: a named value with its type and constraints. `DSPexFleet.Values` lists the types."

  alias DSPexFleet.{Error, Options, Values}

  @type t :: %__MODULE__{
          name: String.t(),
          type: Values.variable_type() | nil,
          value: term,
          constraints: %{String.t() => term}
        }

  defstruct [:name, :type, :value, constraints: %{}]

  @types Map.new(Values.types(), &{to_string(&1), &1})
  @constraints ~w(allowed_modules choices dimensions enum max max_length min min_length pattern shape)

  @doc false
  # Returns a change of a variable as a part of a message.
  @spec change_message(term) :: {:ok, map} | {:error, Error.t()}
  def change_message({name, value}), do: change_message({name, value, []})

  def change_message({name, nil, _opts}) do
    with {:ok, name} <- Options.name(name) do
      {:error, Error.new(:invalid_value, "nil is no value of #{inspect(name)}: delete the variable instead")}
    end
  end

  def change_message({name, value, opts}) do
    with {:ok, name} <- Options.name(name),
         {:ok, opts} <- Options.validate(opts, change_schema()),
         {:ok, encoded} <- Values.encode(value, opts[:type]),
         {:ok, constraints} <- constraints(opts[:constraints]) do
      message = %{"name" => name, "value" => encoded, "type" => opts[:type] && to_string(opts[:type])}
      {:ok, message |> Map.put("constraints", constraints) |> Map.reject(fn {_field, part} -> part == nil end)}
    end
  end

  def change_message(other) do
    {:error,
     Error.new(:invalid_value, "expected a change of {name, value} or {name, value, options}, got: #{inspect(other)}")}
  end

  @doc false
  @spec from_message(map) :: t
  def from_message(message) do
    type = Map.get(@types, message["type"])

    %__MODULE__{
      name: message["name"],
      type: type,
      value: Values.decode(message["value"], type),
      constraints: message["constraints"] || %{}
    }
  end

  @doc false
  # Returns a change as `{name, {before, after}}`; nil stands for a variable that isn't there.
  @spec change_from_message(map) :: {String.t(), {t | nil, t | nil}}
  def change_from_message(message), do: {message["name"], {side(message["before"]), side(message["after"])}}

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

  defp side(nil), do: nil
  defp side(message), do: from_message(message)

  defp change_schema do
    NimbleOptions.new!(type: [type: {:in, [nil | Values.types()]}], constraints: [type: :any])
  end

  defp constraints(nil), do: {:ok, nil}

  defp constraints(given) do
    with {:ok, _encoded} = encoded <- Values.encode_object(given, "constraints") do
      unknown = given |> Enum.map(&to_string(elem(&1, 0))) |> Enum.reject(&(&1 in @constraints))
      if unknown == [], do: encoded, else: {:error, unknown_constraints(unknown)}
    end
  end

  defp unknown_constraints(unknown) do
    Error.new(
      :invalid_value,
      "there is no constraint #{Enum.join(unknown, " or ")}; there are #{Enum.join(@constraints, ", ")}"
    )
  end
end
