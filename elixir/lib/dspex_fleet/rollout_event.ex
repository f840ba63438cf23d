defmodule DSPexFleet.RolloutEvent do
  @moduledoc """
  Something that happened to a rollout, as `DSPexFleet.Rollout.subscribe/3` sends it.

    * `:kind` – `:started`, `:stage` (the beginning of one), `:paused`, `:resumed`, `:promoted`, `:rolled_back` or
      `:superseded` (an end without a decision).
    * `:rollout` – the `DSPexFleet.Rollout` after it.
    * `:author` – who caused it; `"controller"` for what the fleet decided by itself.
    * `:reason` – why, as a sentence, and `:detail` the numbers behind it, as decoded JSON.
    * `:at` – when; `:position` – its place, for the option `:after`.
  """

  alias Dspex.Fleet.V1
  alias DSPexFleet.{Error, Rollout, Snapshot, Values}

  @type kind :: :started | :stage | :paused | :resumed | :promoted | :rolled_back | :superseded | :unknown
  @type t :: %__MODULE__{
          kind: kind,
          rollout: Rollout.t(),
          author: String.t(),
          reason: String.t(),
          detail: map,
          at: DateTime.t() | nil,
          position: String.t()
        }

  defstruct [:kind, :rollout, :author, :reason, :at, :position, detail: %{}]

  @kinds Map.new(
           ~w(started stage paused resumed promoted rolled_back superseded)a,
           &{:"ROLLOUT_EVENT_KIND_#{String.upcase(to_string(&1))}", &1}
         )

  @doc false
  @spec from_wire(V1.RolloutEvent.t()) :: {:ok, t} | {:error, Error.t()}
  def from_wire(%V1.RolloutEvent{} = wire) do
    with {:ok, detail} <- Values.decode(wire.detail_json) do
      {:ok,
       %__MODULE__{
         kind: Map.get(@kinds, wire.kind, :unknown),
         rollout: Rollout.from_wire(wire.rollout),
         author: wire.author,
         reason: wire.reason,
         detail: detail,
         at: Snapshot.time(wire.at),
         position: wire.position
       }}
    end
  end
end
