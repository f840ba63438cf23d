defmodule DSPexFleet.Status do
  @moduledoc """
  How the fleet stands: its worker processes, what waits for them, the limits, and what has ended lately.

      {:ok, status} = Status.get(session, since_s: 600)
      Enum.sum_by(status.queues, & &1.waiting)

  A status is a map of

    * `:at` – when it was taken, a `DateTime`.
    * `:processes` – the worker processes that have reported themselves within the last 15 seconds, by `:node` and `:pid`, each with its
      `:pool`, `:concurrency`, `:in_flight`, `:queues`, `:started_at`, `:reported_at`, and how many predictions have `:succeeded`,
      `:failed` or been `:cancelled` in it since its start. `:newer_release` says what it leaves to workers of a newer release, so that it
      isn't ready, and is `""` otherwise.
    * `:queues` – by `:queue` and, the most urgent first, by `:priorities` (such as `"6 to 8"`): how many messages are `:waiting`, and
      `:oldest_s`, how long ago the one that is served next was sent, or nil if none waits.
    * `:held` (messages that workers hold), `:delayed` (those that are put aside until they are due) and `:parked` (predictions that
      wait for a rate limit, or for a batch of LM calls) – each nil if the broker doesn't tell; and `:dead`, those that the fleet has
      given up (`DSPexFleet.DeadLetters`).
    * `:limits` – the rate limits in force, each a map of `:profile`, `:kind`, `:allowed` and `:used`; `:parked_by_profile` – how many
      predictions wait, by LM profile.
    * `:lagging` – the sessions of which a process doesn't apply the newest revision, at most a hundred: `:session`, how many
      `:processes`, and how many revisions the last of them is `:behind`, 0 if it refuses the newest one.
    * `:ended` – what ended, oldest first, in equal spans: `:at`, `:seconds`, `:succeeded`, `:failed`, `:cancelled`, and the seconds from
      submission to the end of those that succeeded, `:p50_s` and `:p95_s`, nil if none did.

  The token needs the scope `read`, and has to be for all sessions; the session that is given only says which connection to use.
  """

  alias DSPexFleet.{Call, Error, Options, Session, Snapshot}

  @type process :: %{
          node: String.t(),
          pid: pos_integer,
          pool: String.t(),
          concurrency: non_neg_integer,
          in_flight: non_neg_integer,
          queues: [String.t()],
          started_at: DateTime.t() | nil,
          reported_at: DateTime.t() | nil,
          succeeded: non_neg_integer,
          failed: non_neg_integer,
          cancelled: non_neg_integer,
          newer_release: String.t()
        }
  @type depth :: %{queue: String.t(), priorities: String.t(), waiting: non_neg_integer, oldest_s: float | nil}
  @type limit :: %{profile: String.t(), kind: String.t(), allowed: float, used: float}
  @type lagging :: %{session: String.t(), processes: non_neg_integer, behind: non_neg_integer}
  @type ended :: %{
          at: DateTime.t() | nil,
          seconds: float,
          succeeded: non_neg_integer,
          failed: non_neg_integer,
          cancelled: non_neg_integer,
          p50_s: float | nil,
          p95_s: float | nil
        }
  @type status :: %{
          at: DateTime.t() | nil,
          processes: [process],
          queues: [depth],
          held: non_neg_integer | nil,
          delayed: non_neg_integer | nil,
          parked: non_neg_integer | nil,
          dead: non_neg_integer,
          limits: [limit],
          parked_by_profile: %{String.t() => non_neg_integer},
          lagging: [lagging],
          ended: [ended]
        }

  @process ~w(node pid pool concurrency in_flight queues succeeded failed cancelled)a
  @depth ~w(queue priorities waiting oldest_s)a
  @limit ~w(profile kind allowed used)a
  @lagging ~w(session processes behind)a
  @ended ~w(seconds succeeded failed cancelled p50_s p95_s)a

  @schema Options.call(
            since_s: [
              type: {:or, [:float, :non_neg_integer]},
              doc: "For how many seconds back what ended is counted: an hour by default, and a day at most."
            ]
          )

  @doc """
  Returns how the fleet stands.

  #{NimbleOptions.docs(@schema)}
  """
  @spec get(Session.ref(), keyword) :: {:ok, status} | {:error, Error.t()}
  def get(session, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @schema),
         message = %{"since_s" => opts[:since_s]},
         {:ok, answer} <- Call.run(session, :get_status, "Status.Get", fn _session -> message end, opts[:timeout]),
         do: {:ok, status(answer)}
  end

  @doc "Like `get/2`, but returns the status itself or raises `DSPexFleet.Error`."
  @spec get!(Session.ref(), keyword) :: status
  def get!(session, opts \\ []), do: session |> get(opts) |> Error.unwrap!()

  defp status(message) do
    message
    |> pick(~w(held delayed parked dead)a)
    |> Map.merge(%{
      at: Snapshot.time(message["at"]),
      processes: Enum.map(message["processes"], &process/1),
      queues: Enum.map(message["queues"], &pick(&1, @depth)),
      limits: Enum.map(message["limits"], &pick(&1, @limit)),
      parked_by_profile: Map.new(message["parked_by_profile"], &{&1["profile"], &1["predictions"]}),
      lagging: Enum.map(message["lagging"], &pick(&1, @lagging)),
      ended: Enum.map(message["ended"], &ended/1)
    })
  end

  defp process(message) do
    message
    |> pick(@process)
    |> Map.merge(%{
      started_at: Snapshot.time(message["started_at"]),
      reported_at: Snapshot.time(message["reported_at"]),
      newer_release: message["newer_release"] || ""
    })
  end

  defp ended(message), do: message |> pick(@ended) |> Map.put(:at, Snapshot.time(message["at"]))

  defp pick(message, fields), do: Map.new(fields, &{&1, message[to_string(&1)]})
end
