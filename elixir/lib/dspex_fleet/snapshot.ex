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
  # The snapshot with some of its variables, or all for an empty list.
  @spec select(t, [String.t()]) :: t
  def select(snapshot, []), do: snapshot
  def select(snapshot, names), do: %{snapshot | variables: Map.take(snapshot.variables, names)}

  @doc false
  @spec from_message(map) :: {:ok, t} | {:error, Error.t()}
  def from_message(message) do
    with {:ok, token} <- token(message["token"]) do
      {:ok,
       %__MODULE__{
         session: message["session"],
         token: token,
         variables: Map.new(message["variables"], &{&1["name"], Variable.from_message(&1)}),
         confirmed_at: time(message["confirmed_at"]),
         authority: message["authority"],
         staleness_s: message["staleness_s"],
         rollout: Rollout.from_message(message["rollout"]),
         staged: Map.new(message["staged"] || [], &Variable.change_from_message/1)
       }}
    end
  end

  @doc false
  @spec token(term) :: {:ok, Token.t()} | {:error, Error.t()}
  def token(text) do
    with :error <- (is_binary(text) && Token.parse(text)) || :error,
         do: {:error, Error.new(:bad_answer, "the gateway sent #{inspect(text)} as a token")}
  end

  @doc false
  @spec time(String.t() | nil) :: DateTime.t() | nil
  def time(nil), do: nil

  def time(text) do
    case DateTime.from_iso8601(text) do
      {:ok, time, _offset} -> time
      {:error, _reason} -> nil
    end
  end
end
