defmodule DSPexFleet.Audit do
  @moduledoc """
  Who changed what on the fleet: publishes, rollbacks, labels, rollouts, experiments, cancellations and the like.

      {:ok, entries} = Audit.list(session, action: "publish", since_s: 86_400)

  An entry is a map of `:action`, `:target`, `:actor`, `:source`, `:reason`, `:before`, `:after`, `:outcome` (`"done"`,
  `"requested"`, `"refused"` or `"denied"`), `:problem`, `:names`, `:changes`, `:approval`, `:approvers`, `:at` (`DateTime`) and
  `:position`. It has names and tokens, never values. The token needs the scope `audit` or `admin`, and has to be for all
  sessions; the session that is given only says which connection to use.
  """

  alias DSPexFleet.{Call, Error, Options, Session, Snapshot}

  @texts ~w(action target actor source reason before after outcome problem names changes approval approvers position)a

  @type entry :: %{
          action: String.t(),
          target: String.t(),
          actor: String.t(),
          source: String.t(),
          reason: String.t(),
          before: String.t(),
          after: String.t(),
          outcome: String.t(),
          problem: String.t(),
          names: [String.t()],
          changes: non_neg_integer,
          approval: String.t(),
          approvers: [String.t()],
          at: DateTime.t() | nil,
          position: String.t()
        }

  @list_schema Options.call(
                 of_session: [type: :string, default: "", doc: "Only entries of this session and its labels."],
                 actor: [type: :string, default: "", doc: "Only those of this author or token."],
                 action: [type: :string, default: "", doc: "Only these, such as `\"publish\"` or `\"rollout\"`."],
                 outcome: [type: {:in, ["", "done", "requested", "refused", "denied"]}, default: "", doc: "Only these."],
                 since_s: [type: {:or, [:float, :non_neg_integer]}, doc: "None older than so many seconds."],
                 limit: [type: {:in, 1..1_000}, default: 100, doc: "The most entries."],
                 before: [type: :string, default: "", doc: "The `:position` of an entry, to read on from there."]
               )

  @doc """
  Returns the newest entries, the newest first.

  #{NimbleOptions.docs(@list_schema)}
  """
  @spec list(Session.ref(), keyword) :: {:ok, [entry]} | {:error, Error.t()}
  def list(session, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @list_schema),
         message = opts |> Keyword.delete(:timeout) |> Map.new(fn {name, value} -> {to_string(name), value} end),
         {:ok, answer} <- Call.run(session, :list_audit, "Audit.List", fn _session -> message end, opts[:timeout]),
         do: {:ok, Enum.map(answer["entries"], &entry/1)}
  end

  @doc "Like `list/2`, but returns the entries themselves or raises `DSPexFleet.Error`."
  @spec list!(Session.ref(), keyword) :: [entry]
  def list!(session, opts \\ []), do: session |> list(opts) |> Error.unwrap!()

  defp entry(message),
    do: @texts |> Map.new(&{&1, message[to_string(&1)]}) |> Map.put(:at, Snapshot.time(message["at"]))
end
