defmodule MyApp.PredictionProducer do
  # A Broadway producer of predictions: the pipeline's demand is how many are made, so that slow processors slow down
  # the fleet's work and don't drown in it.

  use GenStage

  @behaviour Broadway.Producer

  alias DSPexFleet.Producer

  @impl GenStage
  def init(opts) do
    # Broadway adds its own option.
    {_broadway, opts} = Keyword.pop(opts, :broadway)

    with {:ok, producer} <- Producer.start_link(opts), do: {:producer, producer}
  end

  @impl GenStage
  def handle_demand(demand, producer) do
    :ok = Producer.ask(producer, demand)
    {:noreply, [], producer}
  end

  @impl GenStage
  def handle_info({:dspex_fleet, :predicted, {producer, inputs, result}}, producer) do
    message = %Broadway.Message{data: {inputs, result}, acknowledger: Broadway.NoopAcknowledger.init()}
    {:noreply, [message], producer}
  end

  # It stays, so that its supervisor doesn't begin the inputs again.
  def handle_info({:dspex_fleet, :exhausted, producer}, producer), do: {:noreply, [], producer}
end

defmodule MyApp.PredictionPipeline do
  # Answers questions and stores the answers, twenty predictions at a time.

  use Broadway

  alias Broadway.Message

  def start_link(opts) do
    predictions = [session: opts[:session], program: "qa", inputs: opts[:questions], max_in_flight: 20]

    Broadway.start_link(__MODULE__,
      name: __MODULE__,
      context: opts[:store],
      # One: each producer would begin the inputs.
      producer: [module: {MyApp.PredictionProducer, predictions}, concurrency: 1],
      processors: [default: [concurrency: 2, max_demand: 10]]
    )
  end

  @impl Broadway
  def handle_message(_processor, %Message{data: {inputs, {:ok, prediction}}} = message, store) do
    store.(inputs, prediction.outputs)
    message
  end

  def handle_message(_processor, %Message{data: {_inputs, {:error, error}}} = message, _store),
    do: Message.failed(message, error)
end
