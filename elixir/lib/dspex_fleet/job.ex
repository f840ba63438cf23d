defmodule DSPexFleet.Job do
  @moduledoc """
  An evaluation or an optimization that runs on a worker, as `DSPexFleet.Evaluations.start/5` and
  `DSPexFleet.Optimizations.start/5` return it, and `DSPexFleet.Jobs` follows it.

    * `:id`, `:kind` (`:evaluation` or `:optimization`), `:program`, `:session`, `:author`.
    * `:state` – `:queued` (it waits for a worker that executes code), `:running`, `:succeeded`, `:failed` or `:cancelled`.
    * `:arguments` – what it was given, pinned.
    * `:created_at`, `:started_at`, `:ended_at` – each a `DateTime`, or nil before it.
    * `:progress` – of an evaluation a map of `"total"`, `"ended"`, `"errors"` and `"mean"`, of an optimization its record so far.
    * `:result` – of one that succeeded: `%{"arms" => %{name => %{"id" => …, "score" => …}}}`, or the optimization's record.
    * `:error` – of one that failed.

  Arguments, progress and result are decoded JSON.
  """

  alias DSPexFleet.{Error, Snapshot}

  @type kind :: :evaluation | :optimization | :unknown
  @type state :: :queued | :running | :succeeded | :failed | :cancelled | :unknown
  @type t :: %__MODULE__{
          id: String.t(),
          kind: kind,
          state: state,
          program: String.t(),
          session: String.t(),
          author: String.t(),
          arguments: map | nil,
          created_at: DateTime.t() | nil,
          started_at: DateTime.t() | nil,
          ended_at: DateTime.t() | nil,
          progress: map | nil,
          result: map | nil,
          error: Error.t() | nil
        }

  defstruct [
    :id,
    :kind,
    :state,
    :program,
    :session,
    :author,
    :arguments,
    :created_at,
    :started_at,
    :ended_at,
    :progress,
    :result,
    :error
  ]

  @kinds Map.new(~w(evaluation optimization)a, &{to_string(&1), &1})
  @states Map.new(~w(queued running succeeded failed cancelled)a, &{to_string(&1), &1})

  @doc "Returns true if a job has succeeded, failed or been cancelled."
  @spec ended?(t) :: boolean
  def ended?(%__MODULE__{state: state}), do: state in [:succeeded, :failed, :cancelled]

  @doc false
  # The error of a job that failed or was cancelled, otherwise the job.
  @spec outcome(t) :: {:ok, t} | {:error, Error.t()}
  def outcome(%__MODULE__{state: :failed} = failed),
    do: {:error, failed.error || Error.new(:unknown, "job #{failed.id} failed without a reason")}

  def outcome(%__MODULE__{state: :cancelled, id: id}), do: {:error, Error.new(:cancelled, "job #{id} was cancelled")}
  def outcome(%__MODULE__{} = job), do: {:ok, job}

  @doc false
  @spec from_message(map) :: t
  def from_message(message) do
    fields = Map.new(~w(id program session author arguments progress result)a, &{&1, message[to_string(&1)]})
    times = Map.new(~w(created_at started_at ended_at)a, &{&1, Snapshot.time(message[to_string(&1)])})

    struct!(
      __MODULE__,
      fields
      |> Map.merge(times)
      |> Map.merge(%{
        kind: Map.get(@kinds, message["kind"], :unknown),
        state: Map.get(@states, message["state"], :unknown),
        error: message["error"] && Error.from_response(message["error"])
      })
    )
  end
end
