defmodule DSPexFleet.Watch.Variables do
  @moduledoc false
  # The snapshots of the watch's session, of which some may be skipped.

  @behaviour DSPexFleet.Watch

  alias Dspex.Fleet.V1
  alias DSPexFleet.{Snapshot, Token}

  @impl true
  def position(text) when is_binary(text), do: Token.parse!(text)
  def position(token), do: token

  @impl true
  def request(watch) do
    request = %V1.WatchRequest{
      session: watch.session,
      names: Enum.map(watch.names, &to_string/1),
      after: if(watch.after, do: to_string(watch.after), else: "")
    }

    {V1.Variables.Stub, :watch, request}
  end

  @impl true
  def decode(wire), do: Snapshot.from_wire(wire)

  @impl true
  def deliver(snapshot, watch) do
    if watch.after == nil or Token.compare(snapshot.token, watch.after) == :gt do
      measured = %{staleness_s: snapshot.staleness_s}
      :telemetry.execute([:dspex_fleet, :watch, :snapshot], measured, %{session: watch.session, token: snapshot.token})
      {{:dspex_fleet, watch.ref, {:snapshot, snapshot}}, snapshot.token}
    else
      :known
    end
  end
end
