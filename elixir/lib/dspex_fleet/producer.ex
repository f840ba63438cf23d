defmodule DSPexFleet.Producer do
  @moduledoc """
  Makes predictions as fast as one process asks for them, and sends it their results: back-pressure for a GenServer.

      def init(opts) do
        {:ok, producer} = DSPexFleet.Producer.start_link(session: opts[:session], program: "qa", inputs: opts[:inputs])
        :ok = DSPexFleet.Producer.ask(producer, 20)
        {:ok, %{producer: producer}}
      end

      def handle_info({:dspex_fleet, :predicted, {producer, _inputs, {:ok, prediction}}}, state) do
        MyApp.Answers.insert!(prediction.outputs)
        :ok = DSPexFleet.Producer.ask(producer, 1)
        {:noreply, state}
      end

  Nothing is read from the inputs, which may be an endless stream, and nothing is submitted before it is asked for, so that a
  consumer's mailbox never holds more results than it has asked for. The messages are

    * `{:dspex_fleet, :predicted, {producer, inputs, {:ok, prediction} | {:error, error}}}` – what `DSPexFleet.predict/4`
      returns, in the order of the ends;
    * `{:dspex_fleet, :exhausted, producer}` – the last: there are no more inputs, and the producer ends normally.

  An element of the inputs may also be `{inputs, options}`, with options of its own, such as an `:idempotency_key`: under one,
  inputs that are sent again after a restart are the same prediction and aren't paid twice. The producer ends with the
  process that it sends to; the predictions that it has submitted go on.
  """

  use GenServer, restart: :transient

  alias DSPexFleet.{Error, Options, PredictionWait, Submission}

  @own [
    session: [type: :any, required: true, doc: "The session or context."],
    program: [type: :string, required: true, doc: "The program, as for `DSPexFleet.predict/4`."],
    inputs: [type: :any, required: true, doc: "An enumerable of inputs, or of `{inputs, options}`."],
    to: [type: :any, doc: "The process that gets the results, as a pid or a name; by default the one that starts it."],
    max_in_flight: [type: :pos_integer, default: 50, doc: "The most predictions at a time, however many are asked for."]
  ]
  @schema Options.call(@own ++ Submission.options() ++ PredictionWait.options())

  @enforce_keys [:to, :predict, :max_in_flight, :next]
  defstruct @enforce_keys ++ [demand: 0, running: %{}]

  @doc """
  Starts a producer.

  #{NimbleOptions.docs(NimbleOptions.new!(@own))}

  The other options are those of `DSPexFleet.predict/4`.
  """
  @spec start_link(keyword) :: GenServer.on_start() | {:error, Error.t()}
  def start_link(opts) do
    with {:ok, opts} <- Options.validate(opts, @schema) do
      {own, predict_opts} = Keyword.split(opts, Keyword.keys(@own))
      GenServer.start_link(__MODULE__, {Keyword.put_new(own, :to, self()), predict_opts})
    end
  end

  @doc "Asks for a number of further results."
  @spec ask(GenServer.server(), pos_integer) :: :ok
  def ask(producer, count) when is_integer(count) and count > 0, do: GenServer.cast(producer, {:ask, count})

  @impl true
  def init({own, predict_opts}) do
    Process.flag(:trap_exit, true)
    _ref = Process.monitor(own[:to])

    {:ok,
     %__MODULE__{
       to: own[:to],
       predict: &predict(own[:session], own[:program], &1, predict_opts),
       max_in_flight: own[:max_in_flight],
       next: &Enumerable.reduce(own[:inputs], &1, fn inputs, _before -> {:suspend, inputs} end)
     }}
  end

  @impl true
  def handle_cast({:ask, count}, state), do: submit(%{state | demand: state.demand + count})

  @impl true
  def handle_info({ref, result}, state) when is_map_key(state.running, ref) do
    Process.demonitor(ref, [:flush])
    {inputs, running} = Map.pop!(state.running, ref)
    send(state.to, {:dspex_fleet, :predicted, {self(), inputs, result}})
    submit(%{state | running: running, demand: state.demand - 1})
  end

  def handle_info({:DOWN, ref, :process, _task, reason}, state) when is_map_key(state.running, ref),
    do: {:stop, reason, state}

  # The consumer.
  def handle_info({:DOWN, _ref, :process, _pid, _reason}, state), do: {:stop, :normal, state}
  def handle_info({:EXIT, _task, :normal}, state), do: {:noreply, state}
  def handle_info({:EXIT, _linked, reason}, state), do: {:stop, reason, state}

  # Inputs that hold something, such as a file, let go of it.
  @impl true
  def terminate(_reason, %{next: next}) when is_function(next), do: next.({:halt, nil})
  def terminate(_reason, _state), do: :ok

  defp submit(%{next: nil, running: running} = state) when running == %{} do
    send(state.to, {:dspex_fleet, :exhausted, self()})
    {:stop, :normal, state}
  end

  defp submit(state) do
    if map_size(state.running) < min(state.demand, state.max_in_flight) and state.next != nil,
      do: state |> submit_next() |> submit(),
      else: {:noreply, state}
  end

  defp submit_next(state) do
    case state.next.({:cont, nil}) do
      {:suspended, input, next} ->
        task = Task.async(fn -> state.predict.(input) end)
        %{state | next: next, running: Map.put(state.running, task.ref, inputs(input))}

      {_done, _nothing} ->
        %{state | next: nil}
    end
  end

  defp predict(session, program, {inputs, opts}, predict_opts),
    do: DSPexFleet.predict(session, program, inputs, Keyword.merge(predict_opts, opts))

  defp predict(session, program, inputs, predict_opts), do: DSPexFleet.predict(session, program, inputs, predict_opts)

  defp inputs({inputs, _opts}), do: inputs
  defp inputs(inputs), do: inputs
end
