defmodule DSPexFleet.Protections do
  @moduledoc """
  The rules by which changes of sessions and labels need somebody else's approval; see `DSPexFleet.Approvals`.

      {:ok, _rule} = Protections.protect(session, :label, "stable", approvals: 1)

  A rule is a map of `:kind` (`"session"` or `"label"`), `:pattern`, `:approvals`, `:author` and `:at` (`DateTime`). The token
  has to be for all sessions, with the scope `admin` to change a rule; the session that is given only says which connection
  to use.
  """

  alias DSPexFleet.{Call, Error, Options, Session, Snapshot}

  @type rule :: %{
          kind: String.t(),
          pattern: String.t(),
          approvals: pos_integer,
          author: String.t(),
          at: DateTime.t() | nil
        }
  @type kind :: :session | :label

  @call_schema Options.call()
  @author [type: :string, default: "", doc: "Who does it."]
  @protect_schema Options.call(
                    approvals: [type: {:in, 1..5}, default: 1, doc: "How many people have to approve."],
                    author: @author
                  )
  @unprotect_schema Options.call(author: @author)

  @doc "Returns the rules. Options: `:timeout`."
  @spec list(Session.ref(), keyword) :: {:ok, [rule]} | {:error, Error.t()}
  def list(session, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @call_schema),
         {:ok, answer} <-
           Call.run(session, :list_protections, "Protections.List", fn _session -> %{} end, opts[:timeout]),
         do: {:ok, Enum.map(answer["protections"], &rule/1)}
  end

  @doc """
  Sets a rule for sessions or labels whose names match a pattern, in which `*` stands for any text.

  #{NimbleOptions.docs(@protect_schema)}
  """
  @spec protect(Session.ref(), kind, String.t(), keyword) :: {:ok, rule} | {:error, Error.t()}
  def protect(session, kind, pattern, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @protect_schema),
         {:ok, kind} <- Options.name(kind),
         {:ok, pattern} <- Options.string(pattern, "a pattern of names"),
         message = %{
           "kind" => kind,
           "pattern" => pattern,
           "approvals" => opts[:approvals],
           "author" => opts[:author]
         },
         {:ok, answer} <-
           Call.run(session, :protect, "Protections.Protect", fn _session -> message end, opts[:timeout]),
         do: {:ok, rule(answer)}
  end

  @doc "Removes a rule, which needs the approvals that it asks for. Options: `:author` and `:timeout`."
  @spec unprotect(Session.ref(), kind, String.t(), keyword) :: :ok | {:error, Error.t()}
  def unprotect(session, kind, pattern, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @unprotect_schema),
         {:ok, kind} <- Options.name(kind),
         {:ok, pattern} <- Options.string(pattern, "a pattern of names"),
         message = %{"kind" => kind, "pattern" => pattern, "author" => opts[:author]},
         {:ok, _answer} <-
           Call.run(session, :unprotect, "Protections.Unprotect", fn _session -> message end, opts[:timeout]),
         do: :ok
  end

  @doc "Like `list/2`, but returns the rules themselves or raises `DSPexFleet.Error`."
  @spec list!(Session.ref(), keyword) :: [rule]
  def list!(session, opts \\ []), do: session |> list(opts) |> Error.unwrap!()

  @doc "Like `protect/4`, but returns the rule itself or raises `DSPexFleet.Error`."
  @spec protect!(Session.ref(), kind, String.t(), keyword) :: rule
  def protect!(session, kind, pattern, opts \\ []), do: session |> protect(kind, pattern, opts) |> Error.unwrap!()

  defp rule(message) do
    %{
      kind: message["kind"],
      pattern: message["pattern"],
      approvals: message["approvals"],
      author: message["author"],
      at: Snapshot.time(message["at"])
    }
  end
end
