defmodule DSPexFleet.Application do
  @moduledoc false
  # Runs what sessions, connections and subscribers are found through.

  use Application

  alias DSPexFleet.{Processes, Replica, RolloutWatch, Subscribers}

  # Many of them may fail at once, when what they share does.
  @restarts [max_restarts: 10_000, max_seconds: 1]

  @impl true
  def start(_type, _args) do
    _installed = DSPexFleet.TraceContext.load()

    children = [
      Processes,
      Subscribers,
      {Registry, keys: :unique, name: DSPexFleet.Replicas},
      Replica.Table,
      {DynamicSupervisor, [name: Replica.Supervisor] ++ @restarts},
      {DynamicSupervisor, [name: RolloutWatch.Supervisor] ++ @restarts}
    ]

    Supervisor.start_link(children, strategy: :rest_for_one, name: DSPexFleet.Supervisor, max_restarts: 100)
  end
end
