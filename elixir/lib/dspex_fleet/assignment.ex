defmodule DSPexFleet.Assignment do
  @moduledoc """
  Which arm of a rollout a targeting key gets, computed as the fleet does it.

  The fleet assigns predictions by itself. This is for an application that wants the same arm for its own part of a request,
  such as a page beside the answer:

      iex> DSPexFleet.Assignment.arm("fbb26956d5fe8b5c", "user-42", 0.5)
      :candidate

  A key's bucket is the first 8 bytes of SHA-256 of the rollout's id, a zero byte and the key, as an unsigned big-endian
  number. A larger share only adds keys to the candidate.
  """

  alias DSPexFleet.Rollout

  @type arm :: :baseline | :candidate

  @million 1_000_000
  @buckets Integer.pow(2, 64)
  @max_key_bytes 1_024

  @doc """
  Returns a key's bucket, from 0 to 2^64 - 1.

      iex> DSPexFleet.Assignment.bucket("r-1", "user-1")
      13327759831423047028
  """
  @spec bucket(String.t(), String.t()) :: non_neg_integer
  def bucket(rollout_id, key) when byte_size(key) <= @max_key_bytes do
    <<bucket::unsigned-big-64, _rest::binary>> = :crypto.hash(:sha256, [rollout_id, 0, key])
    bucket
  end

  @doc "Returns the arm of a key at the stage of a rollout."
  @spec arm(Rollout.t(), String.t()) :: arm
  def arm(%Rollout{} = rollout, key), do: arm(rollout.id, key, rollout.share)

  @doc "Returns the arm of a key at a share of the candidate, from 0 to 1, of which six decimals count."
  @spec arm(String.t(), String.t(), number) :: arm
  def arm(rollout_id, key, share) when share >= 0 and share <= 1 do
    # In whole millionths, so that no language rounds an edge another way.
    if bucket(rollout_id, key) < div(round(share * @million) * @buckets, @million), do: :candidate, else: :baseline
  end
end
