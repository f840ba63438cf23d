defmodule DSPexFleet.Handle do
  @moduledoc """
  A submitted prediction, the argument of `DSPexFleet.await/2`, `stream/1`, `status/2` and `cancel/2`.

  Only the id and the session matter: `%DSPexFleet.Handle{id: id, session: session}` is a handle in any process or node that
  has a connection.
  """

  @type t :: %__MODULE__{
          id: String.t(),
          session: DSPexFleet.Session.ref(),
          program: String.t() | nil,
          submitted_at: integer | nil
        }

  @enforce_keys [:id, :session]
  defstruct [:id, :session, :program, :submitted_at]
end
