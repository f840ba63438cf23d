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

  alias DSPexFleet.{Rollout, Snapshot}

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

  @kinds Map.new(~w(started stage paused resumed promoted rolled_back superseded)a, &{to_string(&1), &1})

  @doc false
  @spec from_message(map) :: t
  def from_message(message) do
    %__MODULE__{
      kind: Map.get(@kinds, message["kind"], :unknown),
      rollout: Rollout.from_message(message["rollout"]),
      author: message["author"],
      reason: message["reason"],
      detail: message["detail"] || %{},
      at: Snapshot.time(message["at"]),
      position: message["position"]
    }
  end
end
