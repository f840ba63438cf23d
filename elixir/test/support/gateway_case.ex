defmodule DSPexFleet.GatewayCase do
  @moduledoc """
  Tests against the gateway at `DSPEX_FLEET_TARGET`, each in a session of its own.

  `DSPEX_FLEET_TOKEN` is its token if it wants one, and `DSPEX_FLEET_PROGRAM` the program whose field `answer` repeats
  its field `question`, bound to the variable `warmth`; without it the tests that need a worker are left out.
  """

  use ExUnit.CaseTemplate

  alias DSPexFleet.{Context, Variables}

  using do
    quote do
      import DSPexFleet.GatewayCase

      alias DSPexFleet.{
        Connection,
        Context,
        Error,
        Prediction,
        Producer,
        Programs,
        Replica,
        Scores,
        Session,
        Snapshot,
        Token,
        Variable,
        Variables
      }

      @moduletag :gateway
      @moduletag timeout: 120_000
    end
  end

  setup tags do
    {:ok, session: fresh("elixir"), ctx: if(tags[:gateway], do: nil)}
  end

  def target, do: System.fetch_env!("DSPEX_FLEET_TARGET")
  def program, do: System.get_env("DSPEX_FLEET_PROGRAM", "asked")
  def fresh(name), do: "#{name}-#{System.unique_integer([:positive])}-#{System.os_time()}"

  def context!(opts \\ []) do
    opts = Keyword.merge([target: target(), token: System.get_env("DSPEX_FLEET_TOKEN"), session: fresh("elixir")], opts)
    start_supervised!(Supervisor.child_spec({Context, opts}, id: make_ref()))
  end

  @doc "Waits for the first snapshot that passes."
  def await_snapshot(passes? \\ fn _any -> true end, timeout \\ 10_000) do
    receive do
      {:dspex_fleet, :snapshot, snapshot} ->
        if passes?.(snapshot), do: snapshot, else: await_snapshot(passes?, timeout)
    after
      timeout -> raise "no such snapshot came"
    end
  end

  @doc "Publishes and returns the values that are read back."
  def there_and_back(ctx, type, value) do
    name = "v_#{type}"
    token = Variables.defvariable!(ctx, name, type, value)
    Variables.get!(ctx, name, at_least: token)
  end

  @doc "Waits until something is the case."
  def eventually(passes?, tries \\ 400) do
    passes?.() or (tries > 0 and (Process.sleep(25) == :ok and eventually(passes?, tries - 1)))
  end

  @doc "Returns how many requests the calling process sends in a function."
  def count_calls(fun) do
    test = self()
    handler = {__MODULE__, make_ref()}
    count = :counters.new(1, [])
    :telemetry.attach(handler, [:dspex_fleet, :call, :start], &__MODULE__.count_call/4, {test, count})
    fun.()
    :telemetry.detach(handler)
    :counters.get(count, 1)
  end

  def count_call(_event, _measurements, _metadata, {test, count}),
    do: if(self() == test, do: :counters.add(count, 1, 1))
end
