defmodule DSPexFleet.Options do
  @moduledoc false
  # The options of calls: their types, and their validation with an error that says which one is wrong.

  alias DSPexFleet.{Call, Error, Token}

  @timeout [
    timeout: [
      type: {:or, [:pos_integer, {:in, [:infinity]}]},
      default: Call.default_timeout(),
      doc: "Milliseconds that the call may take, or `:infinity`."
    ]
  ]

  @doc "Returns the schema of options for a call, which has a `:timeout`."
  @spec call(keyword) :: NimbleOptions.t()
  def call(schema \\ []), do: NimbleOptions.new!(schema ++ @timeout)

  @doc "Returns the type of an option that is a token or its text."
  @spec token() :: term
  def token, do: {:custom, __MODULE__, :validate_token, []}

  @doc "Returns the type of an option that is a list of names."
  @spec names() :: term
  def names, do: {:custom, __MODULE__, :validate_names, []}

  @doc "Returns the type of an option that is text, or an atom for it."
  @spec text() :: term
  def text, do: {:custom, __MODULE__, :validate_text, []}

  @doc "Returns the type of an option that is a map or a keyword list."
  @spec object() :: term
  def object, do: {:custom, __MODULE__, :validate_object, []}

  @doc "Validates options; the error of one that is unknown or invalid names it."
  @spec validate(term, NimbleOptions.t()) :: {:ok, keyword} | {:error, Error.t()}
  def validate(opts, schema) do
    if Keyword.keyword?(opts) do
      with {:error, error} <- NimbleOptions.validate(opts, schema), do: {:error, invalid(Exception.message(error))}
    else
      {:error, invalid("expected options as a keyword list, got: #{inspect(opts, limit: 10)}")}
    end
  end

  @doc "Returns a name as text."
  @spec name(term) :: {:ok, String.t()} | {:error, Error.t()}
  def name(name) do
    with {:error, message} <- validate_text(name), do: {:error, Error.new(:invalid_value, "as a name: " <> message)}
  end

  @doc "Returns text as it is, such as the id of a prediction."
  @spec string(term, String.t()) :: {:ok, String.t()} | {:error, Error.t()}
  def string(text, _what) when is_binary(text) and text != "", do: {:ok, text}

  def string(other, what) do
    {:error, Error.new(:invalid_value, "expected #{what} as a string, got: #{inspect(other, limit: 10)}")}
  end

  @doc false
  @spec validate_token(term) :: {:ok, String.t()} | {:error, String.t()}
  def validate_token(%Token{} = token), do: {:ok, to_string(token)}

  def validate_token(text) do
    if is_binary(text) and Token.parse(text) != :error,
      do: {:ok, text},
      else: {:error, "expected a token, or its text epoch.revision; got: #{inspect(text)}"}
  end

  @doc false
  @spec validate_names(term) :: {:ok, [String.t()]} | {:error, String.t()}
  def validate_names(names) when is_list(names) do
    names
    |> Enum.reduce_while({:ok, []}, fn name, {:ok, texts} ->
      case validate_text(name) do
        {:ok, text} -> {:cont, {:ok, [text | texts]}}
        {:error, message} -> {:halt, {:error, message}}
      end
    end)
    |> then(fn result -> with {:ok, texts} <- result, do: {:ok, Enum.reverse(texts)} end)
  end

  def validate_names(other), do: {:error, "expected a list of names, got: #{inspect(other)}"}

  @doc false
  @spec validate_text(term) :: {:ok, String.t()} | {:error, String.t()}
  def validate_text(text) when is_binary(text) do
    if text != "" and String.valid?(text),
      do: {:ok, text},
      else: {:error, "expected text in UTF-8, got: #{inspect(text)}"}
  end

  def validate_text(atom) when is_atom(atom) and atom not in [nil, true, false] do
    case Atom.to_string(atom) do
      "Elixir." <> alias -> {:error, "expected text or an atom, got the alias #{alias}; write #{inspect(alias)}"}
      text -> {:ok, text}
    end
  end

  def validate_text(other), do: {:error, "expected text or an atom, got: #{inspect(other, limit: 10)}"}

  @doc false
  @spec validate_object(term) :: {:ok, map} | {:error, String.t()}
  def validate_object(map) when is_map(map) and not is_struct(map), do: {:ok, map}

  def validate_object(list) do
    if Keyword.keyword?(list),
      do: {:ok, Map.new(list)},
      else: {:error, "expected a map or a keyword list, got: #{inspect(list, limit: 10)}"}
  end

  defp invalid(message), do: Error.new(:invalid_option, message)
end
