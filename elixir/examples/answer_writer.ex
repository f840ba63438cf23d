defmodule MyApp.AnswerWriter do
  # Stores answers as fast as the store takes them: never more than twenty are made and not stored yet.

  use GenServer

  alias DSPexFleet.Producer

  @ahead 20

  def start_link(opts), do: GenServer.start_link(__MODULE__, opts)

  @impl true
  def init(opts) do
    {:ok, producer} = Producer.start_link(session: opts[:session], program: "qa", inputs: opts[:questions])
    :ok = Producer.ask(producer, @ahead)
    {:ok, opts[:store]}
  end

  @impl true
  def handle_info({:dspex_fleet, :predicted, {producer, inputs, result}}, store) do
    store.(inputs, result)
    :ok = Producer.ask(producer, 1)
    {:noreply, store}
  end

  def handle_info({:dspex_fleet, :exhausted, _producer}, store), do: {:stop, :normal, store}
end
