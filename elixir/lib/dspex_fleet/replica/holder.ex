defmodule DSPexFleet.Replica.Holder do
  @moduledoc false
  # A subscriber that needs no messages, for applications that keep a replica without one.

  use GenServer

  alias DSPexFleet.{Error, Replica, Session, Subscribers}

  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts), do: GenServer.start_link(__MODULE__, opts)

  @impl true
  def init(opts) do
    with {:ok, opts} <- opts |> Keyword.validate!([:session]) |> Keyword.fetch(:session),
         {:ok, session} <- Session.resolve(opts) do
      key = Replica.key(session)
      # Of no variable, so that what it gets costs little.
      Subscribers.add(key, ["\0"], nil)
      _pid = Replica.ensure(key)
      {:ok, key}
    else
      {:error, %Error{} = error} -> {:stop, error}
      :error -> {:stop, ArgumentError.exception("expected the option :session")}
    end
  end

  @impl true
  # A replica that was refused has ended, and so does this, for its supervisor to decide.
  def handle_info({:dspex_fleet, :down, {_session, error}}, key), do: {:stop, error, key}
  def handle_info(_other, key), do: {:noreply, key}
end
