defmodule DSPexFleet.Revision do
  @moduledoc """
  One entry of a session's history: who changed what, when and why.

  `:changes` maps a name to `{before, after}`, each a `DSPexFleet.Variable` or `nil`.
  """

  alias Dspex.Fleet.V1
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
  @spec from_wire(V1.Revision.t()) :: {:ok, t} | {:error, Error.t()}
  def from_wire(%V1.Revision{} = wire) do
    with {:ok, token} <- Snapshot.token(wire.token),
         {:ok, changes} <- Variable.traverse(wire.changes, &Variable.change_from_wire/1) do
      {:ok,
       %__MODULE__{
         token: token,
         at: Snapshot.time(wire.at),
         author: wire.author,
         reason: wire.reason,
         changes: Map.new(changes)
       }}
    end
  end
end
