defmodule DSPexFleet.Requirement do
  @moduledoc false

  @doc "Returns the requirement of a request from the options `:at_least` and `:exactly`, or `nil`."
  @spec of(keyword) :: {:at_least | :exactly, String.t()} | nil
  def of(opts) do
    case {opts[:at_least], opts[:exactly]} do
      {nil, nil} -> nil
      {token, nil} -> {:at_least, to_string(token)}
      {nil, token} -> {:exactly, to_string(token)}
      {_both, _given} -> raise ArgumentError, "at_least and exactly exclude each other"
    end
  end

  @doc "Returns an expected token as a string: empty for any state, `0.0` for a session that doesn't exist."
  @spec token_text(DSPexFleet.Token.t() | String.t() | :absent | nil) :: String.t()
  def token_text(nil), do: ""
  def token_text(:absent), do: "0.0"
  def token_text(token), do: to_string(token)
end
