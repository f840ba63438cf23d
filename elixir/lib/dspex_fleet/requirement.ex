defmodule DSPexFleet.Requirement do
  @moduledoc false
  # The tokens of requests.

  alias DSPexFleet.{Error, Options}

  @doc "Returns the schema of the options `:at_least` and `:exactly`."
  @spec schema() :: keyword
  def schema, do: [at_least: [type: Options.token()], exactly: [type: Options.token()]]

  @doc "Returns the type of an option that is a token, or `:absent` for a session that doesn't exist."
  @spec expected() :: term
  def expected, do: {:or, [{:in, [:absent]}, Options.token()]}

  @doc "Returns the requirement of a request as fields of its message."
  @spec fields(keyword) :: {:ok, map} | {:error, Error.t()}
  def fields(opts) do
    case {opts[:at_least], opts[:exactly]} do
      {nil, nil} -> {:ok, %{}}
      {token, nil} -> {:ok, %{"at_least" => token}}
      {nil, token} -> {:ok, %{"exactly" => token}}
      {_both, _given} -> {:error, Error.new(:invalid_option, "at_least and exactly exclude each other")}
    end
  end

  @doc "Returns an expected token as text: nil for any state, `0.0` for a session that doesn't exist."
  @spec token_text(String.t() | :absent | nil) :: String.t() | nil
  def token_text(:absent), do: "0.0"
  def token_text(text), do: text
end
