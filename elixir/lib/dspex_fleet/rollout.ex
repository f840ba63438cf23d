defmodule DSPexFleet.Rollout do
  @moduledoc """
  How far a rollout is that takes a session's revision, or a program's version, from a baseline to a candidate by stages.

    * `:target` – what it stages: `"session:NAME"` or `"program:NAME@LABEL"`.
    * `:id` – unique; what `DSPexFleet.Assignment` assigns by.
    * `:state` – `:new` (no stage has begun), `:running`, `:paused`, `:rolled_back` or `:promoted`.
    * `:stage` – its number, from 1; 0 before the first.
    * `:share` – the candidate's part of the requests, from 0 to 1.
    * `:baseline`, `:candidate` – a session's tokens as strings, or a program's `"VERSION:DIGEST"`.
    * `:sequence` – grows with each change of the rollout.
  """

  alias Dspex.Fleet.V1

  @type state :: :new | :running | :paused | :rolled_back | :promoted | :unknown
  @type t :: %__MODULE__{
          target: String.t(),
          id: String.t(),
          state: state,
          stage: non_neg_integer,
          share: float,
          baseline: String.t(),
          candidate: String.t(),
          sequence: non_neg_integer
        }

  defstruct [:target, :id, :state, :stage, :share, :baseline, :candidate, :sequence]

  @states %{
    ROLLOUT_STATE_NEW: :new,
    ROLLOUT_STATE_RUNNING: :running,
    ROLLOUT_STATE_PAUSED: :paused,
    ROLLOUT_STATE_ROLLED_BACK: :rolled_back,
    ROLLOUT_STATE_PROMOTED: :promoted
  }

  @doc false
  @spec from_wire(V1.Rollout.t() | nil) :: t | nil
  def from_wire(nil), do: nil

  def from_wire(%V1.Rollout{} = wire) do
    fields = Map.take(wire, [:target, :id, :stage, :share, :baseline, :candidate, :sequence])
    struct!(__MODULE__, Map.put(fields, :state, Map.get(@states, wire.state, :unknown)))
  end
end
