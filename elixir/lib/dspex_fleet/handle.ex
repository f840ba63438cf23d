defmodule DSPexFleet.Handle do
  @moduledoc """
  A submitted prediction, the argument of `DSPexFleet.await/2`, `stream/1`, `status/2` and `cancel/2`.

  Only the id matters: `%DSPexFleet.Handle{id: id, context: ctx}` is a handle in any process or node that has a context.
  """

  @type t :: %__MODULE__{id: String.t(), context: DSPexFleet.Context.t()}

  @enforce_keys [:id, :context]
  defstruct [:id, :context]
end
