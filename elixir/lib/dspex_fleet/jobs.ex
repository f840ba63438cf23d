defmodule DSPexFleet.Jobs do
  @moduledoc """
  Jobs: evaluations and optimizations that run on workers, followed from anywhere.

      {:ok, job} = DSPexFleet.Evaluations.start(session, "qa@prod", "golden", "answer_exact_match")

      for {:ok, %DSPexFleet.Job{progress: progress}} <- DSPexFleet.Jobs.stream(session, job.id), do: IO.inspect(progress)
      {:ok, %{result: %{"arms" => arms}}} = DSPexFleet.Jobs.await(session, job.id)

  The functions need a token for all sessions; the session only says which connection to use.
  """

  alias DSPexFleet.{Call, Connection, Error, Job, Options, Session}
  alias DSPexFleet.Connection.Backoff

  @call_schema Options.call()
  @list_schema Options.call(
                 kind: [type: {:in, [:evaluation, :optimization]}, doc: "These alone; all by default."],
                 limit: [type: {:in, 1..1_000}, default: 100, doc: "The most jobs."]
               )

  @doc """
  Returns the newest jobs, the newest first, without their progress and results.

  #{NimbleOptions.docs(@list_schema)}
  """
  @spec list(Session.ref(), keyword) :: {:ok, [Job.t()]} | {:error, Error.t()}
  def list(session, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @list_schema),
         message = %{"kind" => opts[:kind], "limit" => opts[:limit]},
         {:ok, answer} <- Call.run(session, :list_jobs, "Jobs.List", fn _session -> message end, opts[:timeout]),
         do: {:ok, Enum.map(answer["jobs"], &Job.from_message/1)}
  end

  @doc "Returns how a job stands, or how it ended."
  @spec get(Session.ref(), String.t(), keyword) :: {:ok, Job.t()} | {:error, Error.t()}
  def get(session, id, opts \\ []), do: call(session, :get_job, "Jobs.Get", id, opts)

  @doc "Cancels a job unless it has ended, and returns it; predictions that it has sent are finished."
  @spec cancel(Session.ref(), String.t(), keyword) :: {:ok, Job.t()} | {:error, Error.t()}
  def cancel(session, id, opts \\ []), do: call(session, :cancel_job, "Jobs.Cancel", id, opts)

  @doc """
  Streams a job as `{:ok, job}`, how it stands and whenever that changes, until it has ended or `{:error, error}`.

  The stream is opened when it is enumerated, on a connection of its own, and opened again, on another gateway if need be, when it
  breaks.
  """
  @spec stream(Session.ref(), String.t()) :: Enumerable.t({:ok, Job.t()} | {:error, Error.t()})
  def stream(session, id) do
    case Options.string(id, "the id of a job") do
      {:ok, id} -> follow(session, id, 0)
      {:error, error} -> [{:error, error}]
    end
  end

  @doc """
  Waits for a job to end, for at most `timeout` milliseconds or `:infinity`.

  Returns the job if it succeeded, and its error if it failed or was cancelled. After `:took_too_long` it goes on.
  """
  @spec await(Session.ref(), String.t(), timeout) :: {:ok, Job.t()} | {:error, Error.t()}
  def await(session, id, timeout \\ :infinity) do
    task = Task.async(fn -> session |> stream(id) |> Enum.reduce(nil, fn result, _before -> result end) end)

    case Task.yield(task, timeout) || Task.shutdown(task, :brutal_kill) do
      {:ok, {:ok, job}} -> Job.outcome(job)
      {:ok, {:error, error}} -> {:error, error}
      nil -> {:error, Error.new(:took_too_long, "job #{id} goes on. Await it again, or cancel it.", fields: [id])}
    end
  end

  @doc "Like `list/2`, but returns the jobs themselves or raises `DSPexFleet.Error`."
  @spec list!(Session.ref(), keyword) :: [Job.t()]
  def list!(session, opts \\ []), do: session |> list(opts) |> Error.unwrap!()

  @doc "Like `get/3`, but returns the job itself or raises `DSPexFleet.Error`."
  @spec get!(Session.ref(), String.t(), keyword) :: Job.t()
  def get!(session, id, opts \\ []), do: session |> get(id, opts) |> Error.unwrap!()

  @doc "Like `cancel/3`, but returns the job itself or raises `DSPexFleet.Error`."
  @spec cancel!(Session.ref(), String.t(), keyword) :: Job.t()
  def cancel!(session, id, opts \\ []), do: session |> cancel(id, opts) |> Error.unwrap!()

  @doc "Like `await/3`, but returns the job itself or raises `DSPexFleet.Error`."
  @spec await!(Session.ref(), String.t(), timeout) :: Job.t()
  def await!(session, id, timeout \\ :infinity), do: session |> await(id, timeout) |> Error.unwrap!()

  @doc false
  # Starts a job by an operation.
  @spec start(Session.ref(), atom, String.t(), Call.build(), timeout) :: {:ok, Job.t()} | {:error, Error.t()}
  def start(session, name, operation, build, timeout) do
    with {:ok, answer} <- Call.run(session, name, operation, build, timeout), do: {:ok, Job.from_message(answer)}
  end

  defp call(session, name, operation, id, opts) do
    with {:ok, opts} <- Options.validate(opts, @call_schema),
         {:ok, id} <- Options.string(id, "the id of a job"),
         do: start(session, name, operation, fn _session -> %{"id" => id} end, opts[:timeout])
  end

  defp follow(session, id, tries) do
    [id]
    |> Stream.flat_map(&open(session, &1))
    |> Stream.transform({:reading, tries}, &read(&1, &2, session, id))
  end

  # The gateway's messages, then `:closed`, to detect a stream that ends before the job.
  defp open(session, id) do
    with {:ok, session} <- Session.resolve(session),
         {:ok, choice} <- Connection.choose(session.connection, Call.default_timeout()) do
      choice |> Call.stream("Jobs.Watch", %{"id" => id}) |> Stream.concat([:closed])
    else
      {:error, %Error{} = error} -> [{:error, error}]
    end
  end

  defp read(_message, :ended, _session, _id), do: {:halt, :ended}
  defp read(:open, reading, _session, _id), do: {[], reading}

  defp read({:ok, message}, _reading, _session, _id) do
    job = Job.from_message(message)
    {[{:ok, job}], if(Job.ended?(job), do: :ended, else: {:reading, 0})}
  end

  defp read({_failed, %Error{} = error}, reading, session, id) do
    if Error.cut?(error), do: reopen(reading, session, id), else: {[{:error, error}], :ended}
  end

  defp read(:closed, reading, session, id), do: reopen(reading, session, id)

  defp reopen({:reading, tries}, session, id) do
    Process.sleep(Backoff.delay(tries, 20, 5_000))
    {follow(session, id, tries + 1), :ended}
  end
end
