defmodule DSPexFleet.PubSub do
  @moduledoc false
  # Phoenix.PubSub, where the application has it. Each node has its own replica, so that a broadcast is local.

  @compile {:no_warn_undefined, [Phoenix.PubSub]}

  @spec broadcast(atom, String.t(), term) :: :ok | {:error, term}
  def broadcast(pubsub, topic, message), do: Phoenix.PubSub.local_broadcast(pubsub, topic, message)
end
