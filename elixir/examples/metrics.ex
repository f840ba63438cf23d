defmodule MyApp.Metrics do
  # What of this node's predictions and calls is worth counting, for LiveDashboard's charts or any reporter of
  # Telemetry.Metrics.

  import Telemetry.Metrics

  @milliseconds [unit: {:native, :millisecond}]

  def metrics do
    [
      counter("dspex_fleet.prediction.submitted.system_time", tags: [:program]),
      summary("dspex_fleet.prediction.ended.duration", [tags: [:program, :state]] ++ @milliseconds),
      sum("dspex_fleet.prediction.ended.prompt_tokens", tags: [:program, :model]),
      sum("dspex_fleet.prediction.ended.completion_tokens", tags: [:program, :model]),
      sum("dspex_fleet.prediction.ended.cost_usd", tags: [:program, :model]),
      summary("dspex_fleet.call.stop.duration", [tags: [:operation]] ++ @milliseconds),
      counter("dspex_fleet.call.stop.duration",
        tags: [:operation, :reason],
        keep: &(&1.error != nil),
        tag_values: &Map.put(&1, :reason, &1.error.reason)
      ),
      counter("dspex_fleet.connection.up.attempts", tags: [:target]),
      counter("dspex_fleet.connection.down.count", tags: [:target]),
      last_value("dspex_fleet.watch.snapshot.staleness_s", unit: :second, tags: [:session])
    ]
  end
end
