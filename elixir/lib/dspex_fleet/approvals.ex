defmodule DSPexFleet.Approvals do
  @moduledoc """
  Changes of what is protected, which wait until somebody else approves them; see `DSPexFleet.Protections`.

      {:error, %Error{reason: :approval_required, fields: [id | _]}} = Variables.publish(session, %{price: 2})
      {:ok, {_request, {:applied, token}}} = Approvals.approve(other, id)

  A request is a map of `:id`, `:operation`, `:target`, `:arguments` (a map; `nil` in lists), `:expected`, `:author`,
  `:reason`, `:rule`, `:needed`, `:approvers`, `:source`, `:digest`, `:created_at` and `:expires_at` (`DateTime`). The token
  has to be for all sessions, with the scope `approve` or `admin` to approve or reject, and another one than the requester's to
  approve; the session that is given only says which connection to use.
  """

  alias DSPexFleet.{Call, Error, Options, Session, Snapshot, Values}

  @fields ~w(id operation target expected author reason rule needed approvers source digest)a

  @type request :: %{
          id: String.t(),
          operation: String.t(),
          target: String.t(),
          arguments: map | nil,
          expected: String.t(),
          author: String.t(),
          reason: String.t(),
          rule: String.t(),
          needed: pos_integer,
          approvers: [String.t()],
          source: String.t(),
          digest: String.t(),
          created_at: DateTime.t() | nil,
          expires_at: DateTime.t() | nil
        }

  @author [type: :string, default: "", doc: "Who does it; what counts is the name of the token."]
  @call_schema Options.call()
  @approve_schema Options.call(author: @author)
  @reject_schema Options.call(author: @author, reason: [type: :string, default: "", doc: "Why."])

  @doc "Returns the requests that wait, the oldest first. Options: `:timeout`."
  @spec list(Session.ref(), keyword) :: {:ok, [request]} | {:error, Error.t()}
  def list(session, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @call_schema),
         {:ok, answer} <- Call.run(session, :list_approvals, "Approvals.List", fn _session -> %{} end, opts[:timeout]),
         do: {:ok, Enum.map(answer["requests"], &request/1)}
  end

  @doc "Returns a request with what it would change. Options: `:timeout`."
  @spec get(Session.ref(), String.t(), keyword) :: {:ok, request} | {:error, Error.t()}
  def get(session, id, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @call_schema),
         {:ok, answer} <- call(session, :get_approval, "Approvals.Get", id, %{}, opts),
         do: {:ok, request(answer)}
  end

  @doc """
  Approves a request; the change is made by this if no approval is missing then.

  Returns the request with `{:applied, result}`, or with `:waiting` if it needs further approvals.

  #{NimbleOptions.docs(@approve_schema)}
  """
  @spec approve(Session.ref(), String.t(), keyword) ::
          {:ok, {request, {:applied, String.t()} | :waiting}} | {:error, Error.t()}
  def approve(session, id, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @approve_schema),
         {:ok, answer} <- call(session, :approve, "Approvals.Approve", id, %{"author" => opts[:author]}, opts),
         do: {:ok, {request(answer["request"]), outcome(answer)}}
  end

  @doc """
  Rejects a request.

  #{NimbleOptions.docs(@reject_schema)}
  """
  @spec reject(Session.ref(), String.t(), keyword) :: {:ok, request} | {:error, Error.t()}
  def reject(session, id, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @reject_schema),
         message = %{"author" => opts[:author], "reason" => opts[:reason]},
         {:ok, answer} <- call(session, :reject, "Approvals.Reject", id, message, opts),
         do: {:ok, request(answer)}
  end

  @doc "Like `list/2`, but returns the requests themselves or raises `DSPexFleet.Error`."
  @spec list!(Session.ref(), keyword) :: [request]
  def list!(session, opts \\ []), do: session |> list(opts) |> Error.unwrap!()

  @doc "Like `get/3`, but returns the request itself or raises `DSPexFleet.Error`."
  @spec get!(Session.ref(), String.t(), keyword) :: request
  def get!(session, id, opts \\ []), do: session |> get(id, opts) |> Error.unwrap!()

  @doc "Like `approve/3`, but returns the request and what became of it themselves or raises `DSPexFleet.Error`."
  @spec approve!(Session.ref(), String.t(), keyword) :: {request, {:applied, String.t()} | :waiting}
  def approve!(session, id, opts \\ []), do: session |> approve(id, opts) |> Error.unwrap!()

  @doc "Like `reject/3`, but returns the request itself or raises `DSPexFleet.Error`."
  @spec reject!(Session.ref(), String.t(), keyword) :: request
  def reject!(session, id, opts \\ []), do: session |> reject(id, opts) |> Error.unwrap!()

  defp call(session, name, operation, id, message, opts) do
    with {:ok, id} <- Options.string(id, "the id of a request"),
         do: Call.run(session, name, operation, fn _session -> Map.put(message, "id", id) end, opts[:timeout])
  end

  defp outcome(%{"applied" => true, "result" => result}), do: {:applied, result}
  defp outcome(_waits), do: :waiting

  defp request(message) do
    @fields
    |> Map.new(&{&1, message[to_string(&1)]})
    |> Map.put(:arguments, if(message["arguments"] not in [nil, ""], do: Values.decode(message["arguments"])))
    |> Map.put(:created_at, Snapshot.time(message["created_at"]))
    |> Map.put(:expires_at, Snapshot.time(message["expires_at"]))
  end
end
