defmodule DSPexFleet.Handle do
  @moduledoc """
  A submitted prediction: what `DSPexFleet.await/2`, `stream/1`, `status/2` and `cancel/2` take.

  The id alone is what counts; `%DSPexFleet.Handle{id: id, context: ctx}` is a handle in any process or node that has a context.
  """

  @type t :: %__MODULE__{id: String.t(), context: DSPexFleet.Context.t()}

  @enforce_keys [:id, :context]
  defstruct [:id, :context]
end
