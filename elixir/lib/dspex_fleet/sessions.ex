defmodule DSPexFleet.Sessions do
  @moduledoc """
  Where sessions stand, who applies them, and their labels, checks and retention.

      {:ok, state} = Sessions.get(session)
      for %{process: process, error: error} <- state.acknowledgements, error != "", do: {process, error}

      {:ok, _label} = Sessions.promote(session, :stable)

  A label names a revision, which stays readable for as long as it is labelled. A check is a rule for all variables of a
  session together that each publish must pass.

  The state of a session is a map of `:name`, `:token`, `:authority`, `:confirmed_at` (`DateTime`), `:staleness_s`, `:rollout` (a
  `DSPexFleet.Rollout` or nil), `:experiments` (of `DSPexFleet.Experiment`) and `:acknowledgements`: for each live worker
  process that holds the session a map of `:process`, `:token` (the newest that it tried to apply) and `:error` (why it
  couldn't, or `""`). A label is a map of `:name`, `:token`, `:at`, `:author` and `:reason`.
  """

  alias DSPexFleet.{Call, Error, Experiment, Options, Pages, Rollout, Session, Snapshot, Token, Values, Variable}

  @type state :: %{
          name: String.t(),
          token: Token.t(),
          authority: String.t(),
          confirmed_at: DateTime.t() | nil,
          staleness_s: float,
          rollout: Rollout.t() | nil,
          experiments: [Experiment.t()],
          acknowledgements: [%{process: String.t(), token: Token.t(), error: String.t()}]
        }
  @type label :: %{name: String.t(), token: Token.t(), at: DateTime.t() | nil, author: String.t(), reason: String.t()}
  @type check :: {:schema, map} | {:function, String.t()}
  @type retention :: %{
          revisions: non_neg_integer,
          age_s: float | nil,
          ttl_s: float | nil,
          default?: boolean
        }

  @at [
    type: {:or, [Options.token(), :string]},
    doc: "A token, another label or `\"latest\"`, which it also is by default."
  ]
  @author [type: :string, default: ""]
  @call_schema Options.call()
  @list_schema Options.call(
                 prefix: [type: :string, default: "", doc: "What the names begin with."],
                 limit: [type: :pos_integer, doc: "The most sessions; all by default."]
               )
  @label_schema Options.call(
                  at: @at,
                  expected: [
                    type: DSPexFleet.Requirement.expected(),
                    doc: "Move the label only from this token, or `:absent` for one that isn't set."
                  ],
                  author: @author,
                  reason: [type: :string, default: ""]
                )
  @promote_schema Options.call(
                    at: @at,
                    wait: [type: :non_neg_integer, default: 10_000, doc: "Milliseconds to wait for the processes."],
                    author: @author
                  )
  @retention_schema Options.call(
                      revisions: [type: :pos_integer, doc: "How many past revisions are kept at most."],
                      age_s: [
                        type: {:or, [:pos_integer, :float]},
                        doc: "For how long a revision is kept once it isn't the current one."
                      ],
                      ttl_s: [
                        type: {:or, [:pos_integer, :float]},
                        doc: "How long after its last publish or confirmation the session expires."
                      ]
                    )

  @doc """
  Returns the sessions that the token covers, by name.

  #{NimbleOptions.docs(@list_schema)}
  """
  @spec list(Session.ref(), keyword) :: {:ok, [state]} | {:error, Error.t()}
  def list(session, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @list_schema) do
      page = &Map.put(&1, "prefix", opts[:prefix])
      Pages.read(session, :list_sessions, {"Sessions.List", "sessions"}, page, opts, &state/1)
    end
  end

  @doc "Returns where a session stands, and which revision each live worker process that holds it applies."
  @spec get(Session.ref(), keyword) :: {:ok, state} | {:error, Error.t()}
  def get(session, opts \\ []) do
    with {:ok, answer} <- call(session, :get_session, "Sessions.Get", %{}, opts), do: state(answer)
  end

  @doc "Returns the labels of a session's revisions, by name."
  @spec labels(Session.ref(), keyword) :: {:ok, [label]} | {:error, Error.t()}
  def labels(session, opts \\ []) do
    with {:ok, answer} <- call(session, :list_labels, "Sessions.ListLabels", %{}, opts),
         do: Variable.traverse(answer["labels"], &label/1)
  end

  @doc """
  Points a label at a revision.

  #{NimbleOptions.docs(@label_schema)}
  """
  @spec set_label(Session.ref(), atom | String.t(), keyword) :: {:ok, label} | {:error, Error.t()}
  def set_label(session, label, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @label_schema), {:ok, label} <- Options.name(label) do
      message = %{
        "label" => label,
        "at" => opts[:at],
        "expected" => DSPexFleet.Requirement.token_text(opts[:expected]),
        "author" => opts[:author],
        "reason" => opts[:reason]
      }

      with {:ok, answer} <- run(session, :set_label, "Sessions.SetLabel", message, opts), do: label(answer)
    end
  end

  @doc "Removes a label, if it is set."
  @spec remove_label(Session.ref(), atom | String.t(), keyword) :: :ok | {:error, Error.t()}
  def remove_label(session, label, opts \\ []) do
    with {:ok, label} <- Options.name(label),
         {:ok, _answer} <- call(session, :remove_label, "Sessions.RemoveLabel", %{"label" => label}, opts),
         do: :ok
  end

  @doc """
  Points a label at a revision once every live worker process that holds the session applies it.

  If one refuses it or doesn't apply it in time, or none holds the session, the label isn't moved, and the error has the
  reason `:revision_not_applied`.

  #{NimbleOptions.docs(@promote_schema)}
  """
  @spec promote(Session.ref(), atom | String.t(), keyword) :: {:ok, label} | {:error, Error.t()}
  def promote(session, label, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @promote_schema), {:ok, label} <- Options.name(label) do
      message = %{
        "label" => label,
        "at" => opts[:at],
        "wait_s" => opts[:wait] / 1_000,
        "author" => opts[:author]
      }

      with {:ok, answer} <- run(session, :promote, "Sessions.Promote", message, opts, waits?: true), do: label(answer)
    end
  end

  @doc "Returns a session's checks by name, each `{:schema, schema}` or `{:function, name}`."
  @spec checks(Session.ref(), keyword) :: {:ok, %{String.t() => check}} | {:error, Error.t()}
  def checks(session, opts \\ []) do
    with {:ok, answer} <- call(session, :list_checks, "Sessions.ListChecks", %{}, opts), do: {:ok, checks_of(answer)}
  end

  @doc """
  Declares and removes checks, all or none of them, and returns those that hold then.

  A map or list of names, each with a JSON schema for the object of all values by name (a map), the name of a function that
  every publishing process has registered (a string), or nil for a check that is removed.
  """
  @spec declare_checks(Session.ref(), Enumerable.t({atom | String.t(), map | String.t() | nil}), keyword) ::
          {:ok, %{String.t() => check}} | {:error, Error.t()}
  def declare_checks(session, changes, opts \\ []) do
    with {:ok, parsed} <- check_changes(changes) do
      {removed, declared} = Enum.split_with(parsed, &match?({_name, nil}, &1))

      message = %{
        "checks" => Enum.map(declared, fn {_name, check} -> check end),
        "remove" => Enum.map(removed, fn {name, nil} -> name end)
      }

      with {:ok, answer} <- call(session, :declare_checks, "Sessions.DeclareChecks", message, opts),
           do: {:ok, checks_of(answer)}
    end
  end

  @doc "Returns how much of a session's history is kept; nil for what has no limit."
  @spec retention(Session.ref(), keyword) :: {:ok, retention} | {:error, Error.t()}
  def retention(session, opts \\ []) do
    with {:ok, answer} <- call(session, :get_retention, "Sessions.GetRetention", %{}, opts),
         do: {:ok, retention_of(answer)}
  end

  @doc """
  Sets how much of a session's history is kept, and trims what is beyond it; without any of these the store's default applies.

  #{NimbleOptions.docs(@retention_schema)}
  """
  @spec set_retention(Session.ref(), keyword) :: {:ok, retention} | {:error, Error.t()}
  def set_retention(session, opts) do
    with {:ok, opts} <- Options.validate(opts, @retention_schema),
         message = %{"revisions" => opts[:revisions], "age_s" => opts[:age_s], "ttl_s" => opts[:ttl_s]},
         {:ok, answer} <- run(session, :set_retention, "Sessions.SetRetention", message, opts),
         do: {:ok, retention_of(answer)}
  end

  @doc "Like `list/2`, but returns the states themselves or raises `DSPexFleet.Error`."
  @spec list!(Session.ref(), keyword) :: [state]
  def list!(session, opts \\ []), do: session |> list(opts) |> Error.unwrap!()

  @doc "Like `get/2`, but returns the state itself or raises `DSPexFleet.Error`."
  @spec get!(Session.ref(), keyword) :: state
  def get!(session, opts \\ []), do: session |> get(opts) |> Error.unwrap!()

  @doc "Like `labels/2`, but returns the labels themselves or raises `DSPexFleet.Error`."
  @spec labels!(Session.ref(), keyword) :: [label]
  def labels!(session, opts \\ []), do: session |> labels(opts) |> Error.unwrap!()

  @doc "Like `set_label/3`, but returns the label itself or raises `DSPexFleet.Error`."
  @spec set_label!(Session.ref(), atom | String.t(), keyword) :: label
  def set_label!(session, label, opts \\ []), do: session |> set_label(label, opts) |> Error.unwrap!()

  @doc "Like `promote/3`, but returns the label itself or raises `DSPexFleet.Error`."
  @spec promote!(Session.ref(), atom | String.t(), keyword) :: label
  def promote!(session, label, opts \\ []), do: session |> promote(label, opts) |> Error.unwrap!()

  @doc "Like `checks/2`, but returns the checks themselves or raises `DSPexFleet.Error`."
  @spec checks!(Session.ref(), keyword) :: %{String.t() => check}
  def checks!(session, opts \\ []), do: session |> checks(opts) |> Error.unwrap!()

  @doc "Like `declare_checks/3`, but returns the checks themselves or raises `DSPexFleet.Error`."
  @spec declare_checks!(Session.ref(), Enumerable.t(), keyword) :: %{String.t() => check}
  def declare_checks!(session, changes, opts \\ []), do: session |> declare_checks(changes, opts) |> Error.unwrap!()

  @doc "Like `retention/2`, but returns the retention itself or raises `DSPexFleet.Error`."
  @spec retention!(Session.ref(), keyword) :: retention
  def retention!(session, opts \\ []), do: session |> retention(opts) |> Error.unwrap!()

  @doc "Like `set_retention/2`, but returns the retention itself or raises `DSPexFleet.Error`."
  @spec set_retention!(Session.ref(), keyword) :: retention
  def set_retention!(session, opts), do: session |> set_retention(opts) |> Error.unwrap!()

  defp call(session, name, operation, message, opts) do
    with {:ok, opts} <- Options.validate(opts, @call_schema), do: run(session, name, operation, message, opts)
  end

  defp run(session, name, operation, message, opts, call_opts \\ []) do
    timeout = if opts[:wait] && opts[:timeout] != :infinity, do: opts[:timeout] + opts[:wait], else: opts[:timeout]
    Call.run(session, name, operation, &Map.put(message, "session", &1.id), timeout, call_opts)
  end

  defp state(message) do
    with {:ok, token} <- Snapshot.token(message["token"]),
         {:ok, acknowledgements} <- Variable.traverse(message["acknowledgements"], &acknowledgement/1) do
      {:ok,
       %{
         name: message["name"],
         token: token,
         authority: message["authority"],
         confirmed_at: Snapshot.time(message["confirmed_at"]),
         staleness_s: message["staleness_s"],
         rollout: Rollout.from_message(message["rollout"]),
         experiments: Enum.map(message["experiments"], &Experiment.from_message/1),
         acknowledgements: acknowledgements
       }}
    end
  end

  defp acknowledgement(message) do
    with {:ok, token} <- Snapshot.token(message["token"]),
         do: {:ok, %{process: message["process"], token: token, error: message["error"]}}
  end

  defp label(message) do
    with {:ok, token} <- Snapshot.token(message["token"]) do
      {:ok,
       %{
         name: message["name"],
         token: token,
         at: Snapshot.time(message["at"]),
         author: message["author"],
         reason: message["reason"]
       }}
    end
  end

  defp checks_of(answer) do
    Map.new(answer["checks"], fn
      %{"name" => name, "schema" => schema} -> {name, {:schema, schema}}
      %{"name" => name, "function" => function} -> {name, {:function, function}}
    end)
  end

  defp check_changes(changes) when is_list(changes) or (is_map(changes) and not is_struct(changes)),
    do: Variable.traverse(changes, &check_change/1)

  defp check_changes(other) do
    {:error, Error.new(:invalid_value, "expected checks as a map or a list, got: #{inspect(other, limit: 10)}")}
  end

  # Returns the name and the part of the message, which is nil for a check that is removed.
  defp check_change({name, rule}) do
    with {:ok, name} <- Options.name(name),
         {:ok, fields} <- rule(rule),
         do: {:ok, {name, fields && Map.put(fields, "name", name)}}
  end

  defp check_change(other) do
    {:error, Error.new(:invalid_value, "expected a check of {name, rule}, got: #{inspect(other, limit: 10)}")}
  end

  defp rule(nil), do: {:ok, nil}
  defp rule(function) when is_binary(function), do: {:ok, %{"function" => function}}

  defp rule(schema) do
    with {:ok, encoded} <- Values.encode_object(schema, "a check's JSON schema"), do: {:ok, %{"schema" => encoded}}
  end

  defp retention_of(message) do
    %{
      revisions: message["revisions"],
      age_s: message["age_s"],
      ttl_s: message["ttl_s"],
      default?: message["is_default"]
    }
  end
end
