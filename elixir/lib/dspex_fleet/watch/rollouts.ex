defmodule DSPexFleet.Watch.Rollouts do
  @moduledoc false
  # The events of a target's rollouts, each once.

  @behaviour DSPexFleet.Watch

  alias Dspex.Fleet.V1
  alias DSPexFleet.RolloutEvent

  @impl true
  def position(position), do: position

  @impl true
  def request(watch) do
    {V1.Rollouts.Stub, :watch, %V1.WatchRolloutRequest{target: watch.target, after: watch.after || ""}}
  end

  @impl true
  def decode(wire), do: RolloutEvent.from_wire(wire)

  @impl true
  def deliver(event, _watch), do: {{:dspex_fleet, :rollout, event}, event.position}
end
