defmodule DSPexFleet.DeadLetters do
  @moduledoc """
  Messages that the fleet has given up, kept until somebody retries or drops them.

  Each is a map of `:id`, `:reason` (`"lost"`, `"stalled"`, `"unreadable"` or `"rejected"`), `:error`, `:queue`, `:task`,
  `:prediction_ids`, `:deliveries`, `:at` (`DateTime`) and, from `get/3`, `:message`. They hold the inputs of all sessions'
  predictions, so that the functions need a token with the scope `admin` and for all sessions; the session only says which
  connection to use.
  """

  alias DSPexFleet.{Call, Error, Options, Session, Snapshot}

  @type letter :: %{
          id: String.t(),
          reason: String.t(),
          error: String.t(),
          queue: String.t(),
          task: String.t(),
          prediction_ids: [String.t()],
          deliveries: non_neg_integer,
          at: DateTime.t() | nil,
          message: String.t() | nil
        }

  @call_schema Options.call()
  @list_schema Options.call(limit: [type: {:in, 1..1_000}, default: 100, doc: "The most messages."])

  @doc """
  Returns the latest, the newest first, and how many there are.

  #{NimbleOptions.docs(@list_schema)}
  """
  @spec list(Session.ref(), keyword) :: {:ok, {[letter], non_neg_integer}} | {:error, Error.t()}
  def list(session, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @list_schema),
         build = fn _session -> %{"limit" => opts[:limit]} end,
         {:ok, answer} <- Call.run(session, :list_dead_letters, "DeadLetters.List", build, opts[:timeout]),
         do: {:ok, {Enum.map(answer["letters"], &letter/1), answer["count"]}}
  end

  @doc "Returns one of them with its message."
  @spec get(Session.ref(), String.t(), keyword) :: {:ok, letter} | {:error, Error.t()}
  def get(session, id, opts \\ []) do
    with {:ok, answer} <- call(session, :get_dead_letter, "DeadLetters.Get", id, opts), do: {:ok, letter(answer)}
  end

  @doc "Puts a message back into its queue, as if it had never been delivered."
  @spec retry(Session.ref(), String.t(), keyword) :: {:ok, letter} | {:error, Error.t()}
  def retry(session, id, opts \\ []) do
    with {:ok, answer} <- call(session, :retry_dead_letter, "DeadLetters.Retry", id, opts), do: {:ok, letter(answer)}
  end

  @doc "Deletes a message for ever."
  @spec drop(Session.ref(), String.t(), keyword) :: :ok | {:error, Error.t()}
  def drop(session, id, opts \\ []) do
    with {:ok, _answer} <- call(session, :drop_dead_letter, "DeadLetters.Drop", id, opts), do: :ok
  end

  @doc "Like `list/2`, but returns the messages and their number themselves or raises `DSPexFleet.Error`."
  @spec list!(Session.ref(), keyword) :: {[letter], non_neg_integer}
  def list!(session, opts \\ []), do: session |> list(opts) |> Error.unwrap!()

  @doc "Like `get/3`, but returns the message itself or raises `DSPexFleet.Error`."
  @spec get!(Session.ref(), String.t(), keyword) :: letter
  def get!(session, id, opts \\ []), do: session |> get(id, opts) |> Error.unwrap!()

  @doc "Like `retry/3`, but returns the message itself or raises `DSPexFleet.Error`."
  @spec retry!(Session.ref(), String.t(), keyword) :: letter
  def retry!(session, id, opts \\ []), do: session |> retry(id, opts) |> Error.unwrap!()

  defp call(session, name, operation, id, opts) do
    with {:ok, opts} <- Options.validate(opts, @call_schema),
         {:ok, id} <- Options.string(id, "the id of a dead letter"),
         do: Call.run(session, name, operation, fn _session -> %{"id" => id} end, opts[:timeout])
  end

  defp letter(message) do
    %{
      id: message["id"],
      reason: message["reason"],
      error: message["error"],
      queue: message["queue"],
      task: message["task"],
      prediction_ids: message["prediction_ids"],
      deliveries: message["deliveries"],
      at: Snapshot.time(message["at"]),
      message: if(message["message"] not in [nil, ""], do: message["message"])
    }
  end
end
