defmodule DSPexFleet.Application do
  @moduledoc false
  # Runs the registry that contexts and connections are found through.

  use Application

  @impl true
  def start(_type, _args) do
    _installed = DSPexFleet.TraceContext.load()
    Supervisor.start_link([DSPexFleet.Processes], strategy: :one_for_one, name: DSPexFleet.Supervisor)
  end
end
