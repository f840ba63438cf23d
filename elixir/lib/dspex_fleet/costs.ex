defmodule DSPexFleet.Costs do
  @moduledoc """
  What predictions cost, by the hour and for up to 35 days.

  A report is a map of `:by`, `:since` and `:until` (`DateTime`), `:rows` with the dearest first, `:total`, and
  `:omitted`, the number of rows that are left out. A row has the names that the report is by (`:program`, `:session`,
  `:token`, `:profile`; the others are nil), the number of `:predictions` that succeeded and of those that `:failed`, and
  what their LM calls used in `:usage` and `:failed_usage`: `:calls`, `:unpriced_calls`, `:input_tokens`,
  `:cached_input_tokens`, `:output_tokens`, `:reasoning_tokens`, and `:cost_usd`, an exact decimal number as a string, or
  nil if no call is priced.
  """

  alias DSPexFleet.{Call, Error, Options, Session, Snapshot}

  @type report :: %{
          by: String.t(),
          since: DateTime.t(),
          until: DateTime.t(),
          rows: [map],
          total: map,
          omitted: non_neg_integer
        }

  @schema Options.call(
            by: [
              type: {:in, [:program, :session, :revision, :profile]},
              default: :program,
              doc: "What the rows are by."
            ],
            since_s: [
              type: {:or, [:non_neg_integer, :float]},
              doc: "Seconds back, a day unless given; the first hour counts as a whole."
            ],
            limit: [type: :non_neg_integer, default: 0, doc: "The most rows, or 0 for the gateway's own limit."]
          )

  @doc """
  Returns what predictions cost that ended lately, each counted once.

  #{NimbleOptions.docs(@schema)}
  """
  @spec report(Session.ref(), keyword) :: {:ok, report} | {:error, Error.t()}
  def report(session, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @schema),
         message = %{"by" => to_string(opts[:by]), "since_s" => opts[:since_s], "limit" => opts[:limit]},
         {:ok, answer} <- Call.run(session, :report_costs, "Costs.Report", fn _session -> message end, opts[:timeout]) do
      {:ok,
       %{
         by: answer["by"],
         since: Snapshot.time(answer["since"]),
         until: Snapshot.time(answer["until"]),
         rows: Enum.map(answer["rows"], &row/1),
         total: row(answer["total"]),
         omitted: answer["omitted"]
       }}
    end
  end

  @doc "Like `report/2`, but returns the report itself or raises `DSPexFleet.Error`."
  @spec report!(Session.ref(), keyword) :: report
  def report!(session, opts \\ []), do: session |> report(opts) |> Error.unwrap!()

  defp row(message) do
    message
    |> pick([:program, :session, :token, :profile, :predictions, :failed])
    |> Map.merge(%{usage: usage(message["usage"]), failed_usage: usage(message["failed_usage"])})
  end

  @doc false
  # What LM calls used, as a report has it.
  @spec usage(map) :: map
  def usage(message) do
    pick(message, [
      :calls,
      :unpriced_calls,
      :input_tokens,
      :cached_input_tokens,
      :output_tokens,
      :reasoning_tokens,
      :cost_usd
    ])
  end

  defp pick(message, fields), do: Map.new(fields, &{&1, message[to_string(&1)]})
end
