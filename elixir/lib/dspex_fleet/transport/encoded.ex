defmodule DSPexFleet.Transport.Encoded do
  @moduledoc "A part of a message that is JSON text already, as values are, which are checked when they are encoded."

  @type t :: %__MODULE__{json: iodata}

  @enforce_keys [:json]
  defstruct [:json]

  defimpl JSON.Encoder do
    @impl true
    def encode(encoded, _encoder), do: encoded.json
  end
end
