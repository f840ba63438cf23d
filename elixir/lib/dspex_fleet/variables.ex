defmodule DSPexFleet.Variables do
  @moduledoc """
  Publishes and reads the variables of a context's session.

      {:ok, _} = Variables.defvariable(ctx, :llm_temperature, :float, 0.7, constraints: %{min: 0.0, max: 2.0})
      {:ok, token} = Variables.publish(ctx, llm_temperature: 0.9, reasoning_module: "ReAct")
      {:ok, prediction} = DSPexFleet.predict(ctx, "qa", %{question: "…"}, at_least: token)

  Each publish is one revision or none: a reader sees all of its changes or nothing of them. What it returns is the token
  of that revision; a prediction with `at_least: token` runs on this state or a later one.

  Names are atoms or strings on the way out and always strings in what comes back.

  ## Options of everything that publishes

    * `:expected` – publish only on top of this token (`:absent` for a session that isn't there), else the error has the
      kind `"StaleTokenError"` and nothing was changed.
    * `:author`, `:reason` – stand in the history, the author beside the name of the token, as in `shop (says: nightly)`.
    * `:request_id` – a publish that is sent again under the same id is applied once. One is made up if there is none, so
      that a broken connection is no reason for a second revision.
    * `:timeout` – milliseconds, 15,000 by default, a wait for a connection included.
  """

  alias Dspex.Fleet.V1
  alias Dspex.Fleet.V1.Variables.Stub
  alias DSPexFleet.{Call, Context, Error, Requirement, Revision, Snapshot, Token, Values, Variable}

  @type name :: atom | String.t()
  @type change :: {name, term} | {name, term, [type: Values.variable_type(), constraints: map]}
  @type published :: {:ok, Token.t()} | {:error, Error.t()}

  @publish_options [:expected, :author, :reason, :request_id, :timeout]

  @doc """
  Defines a variable, or gives one that is there this type, value and constraints, and returns the token.

  The definition is the whole of it: constraints that it doesn't name are gone. `:constraints` is a map such as
  `%{min: 0.0, max: 2.0}`, `%{choices: ["a", "b"]}`, `%{pattern: "^gpt"}` or `%{dimensions: 3}`.
  """
  @spec defvariable(Context.t(), name, Values.variable_type(), term, keyword) :: published
  def defvariable(context, name, type, value, opts \\ []) do
    {constraints, opts} = Keyword.pop(opts, :constraints, %{})
    publish(context, [{name, value, type: type, constraints: Map.new(constraints)}], opts)
  end

  @doc "Sets one variable and returns the token; type and constraints stay as they are."
  @spec set(Context.t(), name, term, keyword) :: published
  def set(context, name, value, opts \\ []), do: publish(context, [{name, value}], opts)

  @doc "Deletes variables and returns the token."
  @spec delete(Context.t(), name | [name], keyword) :: published
  def delete(context, names, opts \\ []), do: publish(context, [], [delete: List.wrap(names)] ++ opts)

  @doc """
  Commits changes as one revision and returns its token.

  Changes are a map or a list of `{name, value}`, or `{name, value, type: …, constraints: …}` where a variable is new or
  changes its nature; without a type a new variable gets the one that fits its value. Besides the options above:

    * `:delete` – names of variables to delete in the same revision.
    * `:replace` – `true` makes the changes the whole state: every other variable goes.
  """
  @spec publish(Context.t(), %{name => term} | [change], keyword) :: published
  def publish(context, changes, opts \\ []) do
    opts = Keyword.validate!(opts, [delete: [], replace: false] ++ @publish_options)
    request_id = opts[:request_id] || Call.fresh_id()

    build = fn session ->
      with {:ok, set} <- Variable.gather(changes, &change/1) do
        {:ok,
         %V1.PublishRequest{
           session: session,
           changes: set ++ Enum.map(opts[:delete], &%V1.Change{name: to_string(&1), change: {:delete, true}}),
           expected: Requirement.token_text(opts[:expected]),
           replace: opts[:replace],
           author: opts[:author] || "",
           reason: opts[:reason] || "",
           request_id: request_id
         }}
      end
    end

    published(context, :publish, build, opts)
  end

  @doc """
  Returns the value of one variable.

  `:at_least` or `:exactly` name the token that it is read at, and `:wait` the milliseconds that it may take to get there; `:timeout` bounds the whole.
  The error has the kind `"VariableNotFoundError"` if the session has no such variable, unless there is a `:default`.
  """
  @spec get(Context.t(), name, keyword) :: {:ok, term} | {:error, Error.t()}
  def get(context, name, opts \\ []) do
    {default, opts} = Keyword.pop(opts, :default, :none)

    case snapshot(context, [names: [name]] ++ opts) do
      {:ok, %Snapshot{variables: found}} when map_size(found) > 0 ->
        {:ok, found |> Map.values() |> hd() |> Map.get(:value)}

      {:ok, %Snapshot{session: session}} ->
        missing(name, session, default)

      {:error, %Error{kind: "VariableNotFoundError"}} when default != :none ->
        {:ok, default}

      {:error, error} ->
        {:error, error}
    end
  end

  @doc "Returns a `DSPexFleet.Snapshot` of all variables, or of `:names`; the other options are those of `get/3`."
  @spec snapshot(Context.t(), keyword) :: {:ok, Snapshot.t()} | {:error, Error.t()}
  def snapshot(context, opts \\ []) do
    opts = Keyword.validate!(opts, [:at_least, :exactly, names: [], wait: 0, timeout: nil])

    build = fn session ->
      %V1.GetVariablesRequest{
        session: session,
        names: Enum.map(opts[:names], &to_string/1),
        requirement: Requirement.of(opts),
        wait_s: opts[:wait] / 1_000
      }
    end

    with {:ok, wire} <-
           Call.run(context, :get, {Stub, :get}, build, opts[:timeout] || opts[:wait] + Call.default_timeout()) do
      Snapshot.from_wire(wire)
    end
  end

  @doc """
  Sends the calling process the session's snapshots as messages, the current one first, and returns a reference.

    * `{:dspex_fleet, ref, {:snapshot, %DSPexFleet.Snapshot{}}}` – a newer state; in between, revisions may be skipped, and an
      older one never comes.
    * `{:dspex_fleet, ref, {:interrupted, %DSPexFleet.Error{}}}` – no news for now; the watch goes on by itself as soon as
      it can, with the newest state.
    * `{:dspex_fleet, ref, {:ended, %DSPexFleet.Error{}}}` – refused for good, such as by a missing scope.

  The watch ends with `unwatch/2`, with the subscriber or with the context. Options: `:names` for some of the variables,
  `:after` for a token that the caller already has, `:subscriber` for another process.
  """
  @spec watch(Context.t(), keyword) :: {:ok, reference} | {:error, Error.t()}
  def watch(context, opts \\ []) do
    opts = Keyword.validate!(opts, [:after, names: [], subscriber: self()])
    Context.start_watch(context, opts)
  end

  @doc "Ends a watch; no message of it arrives after this returns."
  @spec unwatch(Context.t(), reference) :: :ok | {:error, Error.t()}
  def unwatch(context, ref) do
    with :ok <- Context.stop_watch(context, ref), do: flush(ref)
  end

  @doc "Returns the latest `:limit` (20) revisions, newest first, as `DSPexFleet.Revision`."
  @spec history(Context.t(), keyword) :: {:ok, [Revision.t()]} | {:error, Error.t()}
  def history(context, opts \\ []) do
    opts = Keyword.validate!(opts, limit: 20, timeout: Call.default_timeout())
    build = &%V1.HistoryRequest{session: &1, limit: opts[:limit]}

    with {:ok, wire} <- Call.run(context, :history, {Stub, :history}, build, opts[:timeout]) do
      Variable.gather(wire.revisions, &Revision.from_wire/1)
    end
  end

  @doc "Commits the state at a past token as a new revision and returns its token."
  @spec rollback(Context.t(), Token.t() | String.t(), keyword) :: published
  def rollback(context, to, opts \\ []) do
    opts = Keyword.validate!(opts, @publish_options)
    request_id = opts[:request_id] || Call.fresh_id()

    build = fn session ->
      %V1.RollbackRequest{
        session: session,
        to: to_string(to),
        expected: Requirement.token_text(opts[:expected]),
        author: opts[:author] || "",
        reason: opts[:reason] || "",
        request_id: request_id
      }
    end

    published(context, :rollback, build, opts)
  end

  @doc "Like `defvariable/5`, but returns the token itself or raises `DSPexFleet.Error`."
  @spec defvariable!(Context.t(), name, Values.variable_type(), term, keyword) :: Token.t()
  def defvariable!(context, name, type, value, opts \\ []) do
    context |> defvariable(name, type, value, opts) |> Error.unwrap!()
  end

  @doc "Like `set/4`, but returns the token itself or raises `DSPexFleet.Error`."
  @spec set!(Context.t(), name, term, keyword) :: Token.t()
  def set!(context, name, value, opts \\ []), do: context |> set(name, value, opts) |> Error.unwrap!()

  @doc "Like `delete/3`, but returns the token itself or raises `DSPexFleet.Error`."
  @spec delete!(Context.t(), name | [name], keyword) :: Token.t()
  def delete!(context, names, opts \\ []), do: context |> delete(names, opts) |> Error.unwrap!()

  @doc "Like `publish/3`, but returns the token itself or raises `DSPexFleet.Error`."
  @spec publish!(Context.t(), %{name => term} | [change], keyword) :: Token.t()
  def publish!(context, changes, opts \\ []), do: context |> publish(changes, opts) |> Error.unwrap!()

  @doc "Like `get/3`, but returns the value itself or raises `DSPexFleet.Error`."
  @spec get!(Context.t(), name, keyword) :: term
  def get!(context, name, opts \\ []), do: context |> get(name, opts) |> Error.unwrap!()

  @doc "Like `snapshot/2`, but returns the snapshot itself or raises `DSPexFleet.Error`."
  @spec snapshot!(Context.t(), keyword) :: Snapshot.t()
  def snapshot!(context, opts \\ []), do: context |> snapshot(opts) |> Error.unwrap!()

  @doc "Like `watch/2`, but returns the reference itself or raises `DSPexFleet.Error`."
  @spec watch!(Context.t(), keyword) :: reference
  def watch!(context, opts \\ []), do: context |> watch(opts) |> Error.unwrap!()

  @doc "Like `history/2`, but returns the revisions themselves or raises `DSPexFleet.Error`."
  @spec history!(Context.t(), keyword) :: [Revision.t()]
  def history!(context, opts \\ []), do: context |> history(opts) |> Error.unwrap!()

  @doc "Like `rollback/3`, but returns the token itself or raises `DSPexFleet.Error`."
  @spec rollback!(Context.t(), Token.t() | String.t(), keyword) :: Token.t()
  def rollback!(context, to, opts \\ []), do: context |> rollback(to, opts) |> Error.unwrap!()

  defp change({name, value}), do: change({name, value, []})

  defp change({name, value, opts}) do
    opts = Keyword.validate!(opts, [:type, :constraints])

    with {:ok, type} <- Variable.type_to_wire(opts[:type]),
         {:ok, json} <- Values.encode(value, opts[:type]),
         {:ok, constraints} <- constraints(opts[:constraints]) do
      {:ok, %V1.Change{name: to_string(name), change: {:value_json, json}, type: type, constraints_json: constraints}}
    end
  end

  defp constraints(nil), do: {:ok, nil}
  defp constraints(rules), do: Values.encode(Map.new(rules))

  defp published(context, operation, build, opts) do
    timeout = opts[:timeout] || Call.default_timeout()

    again? = &(Error.cut?(&1) or crowded?(&1, opts[:expected]))

    with {:ok, %V1.PublishResponse{token: token}} <-
           Call.run(context, operation, {Stub, operation}, build, timeout, again?) do
      Snapshot.token(token)
    end
  end

  # Who expects no state is told of a stale one only where many publish at once and the gateway gave up its turn.
  defp crowded?(%Error{kind: "StaleTokenError"}, nil), do: true
  defp crowded?(_error, _expected), do: false

  defp missing(name, session, :none) do
    {:error,
     Error.new("VariableNotFoundError", "session '#{session}' has no variable '#{name}'",
       fields: [to_string(name), session]
     )}
  end

  defp missing(_name, _session, default), do: {:ok, default}

  defp flush(ref) do
    receive do
      {:dspex_fleet, ^ref, _news} -> flush(ref)
    after
      0 -> :ok
    end
  end
end
