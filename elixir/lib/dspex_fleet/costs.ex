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

  alias Dspex.Fleet.V1
  alias Dspex.Fleet.V1.Costs.Stub
  alias DSPexFleet.{Call, Context, Error, Snapshot}

  @type report :: %{
          by: String.t(),
          since: DateTime.t(),
          until: DateTime.t(),
          rows: [map],
          total: map,
          omitted: non_neg_integer
        }

  @doc """
  Returns what predictions cost that ended lately, each counted once.

  Options: `:by` (`:program`, `:session`, `:revision` or `:profile`), `:since_s` (seconds back, a day unless given; the
  first hour counts as a whole), `:limit` (rows) and `:timeout`.
  """
  @spec report(Context.t(), keyword) :: {:ok, report} | {:error, Error.t()}
  def report(context, opts \\ []) do
    opts = Keyword.validate!(opts, by: :program, since_s: nil, limit: 0, timeout: Call.default_timeout())

    build = fn _session ->
      %V1.CostReportRequest{by: to_string(opts[:by]), since_s: opts[:since_s], limit: opts[:limit]}
    end

    with {:ok, wire} <- Call.run(context, :report_costs, {Stub, :report}, build, opts[:timeout]) do
      {:ok,
       %{
         by: wire.by,
         since: Snapshot.time(wire.since),
         until: Snapshot.time(wire.until),
         rows: Enum.map(wire.rows, &row/1),
         total: row(wire.total),
         omitted: wire.omitted
       }}
    end
  end

  @doc "Like `report/2`, but returns the report itself or raises `DSPexFleet.Error`."
  @spec report!(Context.t(), keyword) :: report
  def report!(context, opts \\ []), do: context |> report(opts) |> Error.unwrap!()

  defp row(%V1.CostRow{} = wire) do
    wire |> fields() |> Map.merge(%{usage: fields(wire.usage), failed_usage: fields(wire.failed_usage)})
  end

  defp fields(wire), do: wire |> Map.from_struct() |> Map.delete(:__unknown_fields__)
end
