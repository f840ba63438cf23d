defmodule DSPexFleet.Requirement do
  @moduledoc false

  @doc "The wire's choice between `at_least`, `exactly` and neither, from a call's options."
  @spec of(keyword) :: {:at_least | :exactly, String.t()} | nil
  def of(opts) do
    case {opts[:at_least], opts[:exactly]} do
      {nil, nil} -> nil
      {token, nil} -> {:at_least, to_string(token)}
      {nil, token} -> {:exactly, to_string(token)}
      {_both, _given} -> raise ArgumentError, "at_least and exactly exclude each other"
    end
  end

  @doc "The text of an expected token; empty stands for any state, `0.0` for none."
  @spec token_text(DSPexFleet.Token.t() | String.t() | :absent | nil) :: String.t()
  def token_text(nil), do: ""
  def token_text(:absent), do: "0.0"
  def token_text(token), do: to_string(token)
end
