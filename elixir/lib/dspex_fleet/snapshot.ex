defmodule DSPexFleet.Snapshot do
  @moduledoc """
  All variables of a session at one token, and how recent they are.

    * `:variables` – a map from name (a string) to `DSPexFleet.Variable`.
    * `:confirmed_at` – when the session's authority last confirmed the snapshot; `:staleness_s` are the seconds since.
    * `:authority` – the publisher that owns the session.
    * `:rollout` – the `DSPexFleet.Rollout` that stages this revision, or `nil`. The variables are then the candidate's, and
      requests that aren't assigned to the candidate get the baseline's.
    * `:staged` – where the arms differ: a map from name to `{baseline, candidate}`, each a `DSPexFleet.Variable` or `nil`.
  """

  alias Dspex.Fleet.V1
  alias DSPexFleet.{Error, Rollout, Token, Variable}

  @type t :: %__MODULE__{
          session: String.t(),
          token: Token.t(),
          variables: %{String.t() => Variable.t()},
          confirmed_at: DateTime.t() | nil,
          authority: String.t(),
          staleness_s: float,
          rollout: Rollout.t() | nil,
          staged: %{String.t() => {Variable.t() | nil, Variable.t() | nil}}
        }

  defstruct [:session, :token, :confirmed_at, :authority, :staleness_s, :rollout, variables: %{}, staged: %{}]

  @doc "Returns the value of a variable, or the default if the snapshot has no such variable."
  @spec value(t, atom | String.t(), default) :: term | default when default: term
  def value(%__MODULE__{variables: variables}, name, default \\ nil) do
    case variables do
      %{^name => variable} -> variable.value
      %{} -> named(variables, to_string(name), default)
    end
  end

  defp named(variables, name, default) do
    case variables do
      %{^name => variable} -> variable.value
      %{} -> default
    end
  end

  @doc false
  @spec from_wire(V1.Snapshot.t()) :: {:ok, t} | {:error, Error.t()}
  def from_wire(%V1.Snapshot{} = wire) do
    with {:ok, token} <- token(wire.token),
         {:ok, variables} <- Variable.all_from_wire(wire.variables),
         {:ok, staged} <- Variable.traverse(wire.staged, &Variable.change_from_wire/1) do
      {:ok,
       %__MODULE__{
         session: wire.session,
         token: token,
         variables: Map.new(variables, &{&1.name, &1}),
         confirmed_at: time(wire.confirmed_at),
         authority: wire.authority,
         staleness_s: wire.staleness_s,
         rollout: Rollout.from_wire(wire.rollout),
         staged: Map.new(staged)
       }}
    end
  end

  @doc false
  @spec token(String.t()) :: {:ok, Token.t()} | {:error, Error.t()}
  def token(text) do
    with :error <- Token.parse(text),
         do: {:error, Error.new(:bad_answer, "the gateway sent #{inspect(text)} as a token")}
  end

  @doc false
  @spec time(Google.Protobuf.Timestamp.t() | nil) :: DateTime.t() | nil
  def time(nil), do: nil

  def time(%Google.Protobuf.Timestamp{seconds: seconds, nanos: nanos}) do
    DateTime.from_unix!(seconds * 1_000_000 + div(nanos, 1_000), :microsecond)
  end
end
