defmodule DSPexFleet.Connection.Backoff do
  @moduledoc false

  @doc "Returns how many milliseconds to pause before try `attempt` (from 0): doubling up to `cap`, half of it by chance."
  @spec delay(non_neg_integer, pos_integer, pos_integer) :: pos_integer
  def delay(attempt, base, cap) do
    full = min(cap, base * Integer.pow(2, min(attempt, 20)))
    half = max(div(full, 2), 1)
    # Many clients lose one gateway at the same moment; chance keeps them from coming back at the same one.
    half + :rand.uniform(half)
  end
end
