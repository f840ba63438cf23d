defmodule MyApp.MetricsTest do
  # It looks at the events of the whole node.
  use ExUnit.Case, async: false

  alias DSPexFleet.{Connection, Error, Testing, Variables}
  alias Telemetry.Metrics.Counter

  setup do
    handler = {__MODULE__, make_ref()}
    events = Enum.map(MyApp.Metrics.metrics(), & &1.event_name)
    :telemetry.attach_many(handler, Enum.uniq(events), &__MODULE__.report/4, self())
    on_exit(fn -> :telemetry.detach(handler) end)
  end

  def report(event, measurements, metadata, test), do: send(test, {:event, event, measurements, metadata})

  test "each metric counts something that happens, with its measurement and tags" do
    session = "support" |> predict_once() |> lose_connection()

    for metric <- MyApp.Metrics.metrics() do
      assert_receive {:event, event, measurements, metadata}
                     when event == metric.event_name and
                            (metric.keep == nil or is_struct(metadata.error, Error)),
                     10_000

      values = metric.tag_values.(metadata)
      assert Enum.all?(metric.tags, &is_map_key(values, &1)), "#{inspect(event)} has no #{inspect(metric.tags)}"
      assert Map.get(values, :session, session) == session
      assert is_struct(metric, Counter) or is_number(measurement(metric, measurements, metadata))
      # For other metrics of the same event.
      send(self(), {:event, event, measurements, metadata})
    end
  end

  defp predict_once(id) do
    fleet = start_supervised!(Testing)
    Testing.answer(fleet, "qa", fn _inputs, _variables -> %{answer: 1} end)
    session = Testing.session(fleet, id)
    DSPexFleet.subscribe(session)
    Variables.set!(session, :warmth, 0.5)
    DSPexFleet.predict!(session, "qa", %{question: "?"})
    assert {:error, %Error{}} = DSPexFleet.predict(session, "nobody's", %{})
    session
  end

  defp lose_connection(session) do
    {:ok, choice} = Connection.choose(session.connection, 5_000)
    Connection.report_down(choice, Error.new(:gateway_unavailable, "it was stopped"))
    session.id
  end

  defp measurement(%{measurement: fun}, measurements, metadata) when is_function(fun, 2),
    do: fun.(measurements, metadata)

  defp measurement(%{measurement: fun}, measurements, _metadata) when is_function(fun, 1), do: fun.(measurements)
  defp measurement(%{measurement: name}, measurements, _metadata), do: measurements[name]
end
