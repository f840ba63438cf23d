defmodule DSPexFleet.Revision do
  @moduledoc """
  One entry of a session's history: who changed what, when and why.

  `:changes` maps a name to `{before, after}`, each a `DSPexFleet.Variable` or `nil`.
  """

  alias DSPexFleet.{Error, Snapshot, Token, Variable}

  @type t :: %__MODULE__{
          token: Token.t(),
          at: DateTime.t() | nil,
          author: String.t(),
          reason: String.t(),
          changes: %{String.t() => {Variable.t() | nil, Variable.t() | nil}}
        }

  defstruct [:token, :at, :author, :reason, changes: %{}]

  @doc false
  @spec from_message(map) :: {:ok, t} | {:error, Error.t()}
  def from_message(message) do
    with {:ok, token} <- Snapshot.token(message["token"]) do
      {:ok,
       %__MODULE__{
         token: token,
         at: Snapshot.time(message["at"]),
         author: message["author"],
         reason: message["reason"],
         changes: Map.new(message["changes"], &Variable.change_from_message/1)
       }}
    end
  end
end
