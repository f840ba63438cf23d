defmodule DSPexFleet.Testing.SessionStates do
  @moduledoc false
  # The sessions of a `DSPexFleet.Testing` with their revisions, as a value: what each operation answers, and the
  # sessions after it.

  @epoch 1_000_000

  @type sessions :: %{String.t() => session}
  @type session :: %{
          token: String.t(),
          variables: %{String.t() => map},
          states: %{String.t() => map},
          history: [map]
        }

  @doc "Returns the answer of an operation on a session, and all sessions after it."
  @spec answer(String.t(), map, sessions) :: {{:ok, map} | {:error, DSPexFleet.Error.reason()}, sessions}
  def answer(operation, message, sessions) do
    session = sessions[message["session"]]

    case change(operation, message, session) do
      {:commit, variables} ->
        session = commit(session, message, variables)
        {{:ok, %{"token" => session.token}}, Map.put(sessions, message["session"], session)}

      :read ->
        {read(operation, message, session), sessions}

      {:error, reason} ->
        {{:error, reason}, sessions}
    end
  end

  @doc "Returns the message of a session's current snapshot, with the variables that a request names."
  @spec snapshot(map, session) :: map
  def snapshot(message, session), do: snapshot(message, session.variables, session.token)

  @doc "Returns whether a session has got as far as a token."
  @spec reached?(session | nil, String.t() | nil) :: boolean
  def reached?(nil, _token), do: false
  def reached?(_session, nil), do: true
  def reached?(session, token), do: revision(session.token) >= revision(token)

  @doc "Returns whether a session has a state that a reader who knows a token doesn't know."
  @spec newer?(session, String.t() | nil) :: boolean
  def newer?(_session, none) when none in [nil, ""], do: true
  def newer?(session, token), do: revision(session.token) > revision(token)

  defp change("Variables.Publish", message, session) do
    at = if session, do: session.token, else: "0.0"
    before = if message["replace"] || session == nil, do: %{}, else: session.variables

    if Map.get(message, "expected", at) == at,
      do: {:commit, Enum.reduce(message["changes"], before, &put_change/2)},
      else: {:error, :stale_token}
  end

  defp change("Variables.Rollback", message, session) do
    case session && Map.fetch(session.states, message["to"]) do
      {:ok, variables} -> {:commit, variables}
      _unknown -> {:error, :revision_lost}
    end
  end

  defp change(_read, _message, nil), do: {:error, :session_not_found}
  defp change(_read, _message, _session), do: :read

  defp read("Variables.Get", %{"exactly" => token} = message, session) when token != nil do
    case session.states do
      %{^token => variables} -> {:ok, snapshot(message, variables, token)}
      _others -> {:error, :revision_lost}
    end
  end

  defp read("Variables.Get", message, session) do
    if reached?(session, message["at_least"]),
      do: {:ok, snapshot(message, session)},
      else: {:error, :revision_not_reached}
  end

  defp read("Variables.History", message, session),
    do: {:ok, %{"revisions" => Enum.take(session.history, message["limit"])}}

  defp put_change(%{"delete" => true, "name" => name}, variables), do: Map.delete(variables, name)

  defp put_change(%{"name" => name} = change, variables) do
    before = variables[name] || %{"type" => type(change["value"]), "constraints" => %{}}
    Map.put(variables, name, Map.merge(before, Map.take(change, ["name", "value", "type", "constraints"])))
  end

  defp type(value) when is_boolean(value), do: "boolean"
  defp type(value) when is_integer(value), do: "integer"
  defp type(value) when is_float(value), do: "float"
  defp type(value) when is_list(value), do: "embedding"
  defp type(value) when is_map(value), do: "tensor"
  defp type(_text), do: "string"

  defp commit(before, message, variables) do
    before = before || %{variables: %{}, states: %{}, history: []}
    token = "#{@epoch}.#{length(before.history) + 1}"

    revision = %{
      "token" => token,
      "at" => DateTime.to_iso8601(DateTime.utc_now()),
      "author" => message["author"],
      "reason" => message["reason"],
      "changes" => changes(before.variables, variables)
    }

    %{
      token: token,
      variables: variables,
      states: Map.put(before.states, token, variables),
      history: [revision | before.history]
    }
  end

  defp changes(before, now) do
    for name <- Enum.uniq(Map.keys(before) ++ Map.keys(now)), before[name] != now[name] do
      Map.reject(%{"name" => name, "before" => before[name], "after" => now[name]}, fn {_side, part} -> part == nil end)
    end
  end

  defp snapshot(message, variables, token) do
    names = message["names"] || []
    chosen = if names == [], do: variables, else: Map.take(variables, names)

    %{
      "session" => message["session"],
      "token" => token,
      "variables" => Map.values(chosen),
      "confirmed_at" => DateTime.to_iso8601(DateTime.utc_now()),
      "authority" => "store",
      "staleness_s" => 0.0,
      "staged" => []
    }
  end

  defp revision(token), do: token |> String.split(".") |> Enum.map(&String.to_integer/1)
end
