defmodule DSPexFleet.Connection.Backoff do
  @moduledoc false

  @doc "Returns the milliseconds to pause before attempt `attempt` (from 0), doubling up to `cap`, half of it random."
  @spec delay(non_neg_integer, pos_integer, pos_integer) :: pos_integer
  def delay(attempt, base, cap) do
    full = min(cap, base * Integer.pow(2, min(attempt, 20)))
    half = max(div(full, 2), 1)
    # Jitter keeps clients that lost a gateway at the same moment from reconnecting at the same moment.
    half + :rand.uniform(half)
  end
end
