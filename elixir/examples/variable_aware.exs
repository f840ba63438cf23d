# Elixir decides, Python predicts: the variables are set here, and the next prediction on the fleet runs with them.
#
#     mix run examples/variable_aware.exs
#
# Needs a gateway (DSPEX_FLEET_TARGET, 127.0.0.1:8061 by default; DSPEX_FLEET_TOKEN if it asks for one) and a worker.

alias DSPexFleet.{Context, Programs, Snapshot, Variables}

options = [
  target: System.get_env("DSPEX_FLEET_TARGET", "127.0.0.1:8061"),
  token: System.get_env("DSPEX_FLEET_TOKEN")
]

{:ok, ctx} = Context.start_link(options)

# Define variables
{:ok, _token} = Variables.defvariable(ctx, :llm_temperature, :float, 0.7, constraints: %{min: 0.0, max: 2.0})

{:ok, token} = Variables.defvariable(ctx, :reasoning_module, :module, "ChainOfThought")
IO.puts("defined #{Context.session(ctx)} at #{token}")

# A program whose module is chosen by one variable and whose temperature follows another
program =
  Programs.register!(ctx, "reasoned", %{
    module: %{variable: "reasoning_module"},
    signature: "question -> answer",
    bindings: %{temperature: "llm_temperature"}
  })

IO.puts("registered #{program.name}:#{program.version}")

ask = fn token ->
  prediction = DSPexFleet.predict!(ctx, "reasoned", %{question: "Why is the sky blue?"}, at_least: token)
  IO.puts("#{prediction.provenance.token}: #{inspect(prediction.outputs)}")
end

# Python DSPy modules use these values from here on
ask.(token)

# Both change in one revision: no prediction sees one without the other
token = Variables.publish!(ctx, [llm_temperature: 0.2, reasoning_module: "Predict"], reason: "short answers will do")
ask.(token)

# A value that breaks its constraint changes nothing
{:error, error} = Variables.set(ctx, :llm_temperature, 3.0)
IO.puts("refused: #{error.message}")

# Subscribers are told, the current state first
:ok = DSPexFleet.subscribe(ctx)

receive do
  {:dspex_fleet, :snapshot, snapshot} ->
    IO.puts("watched #{snapshot.token}: llm_temperature is #{Snapshot.value(snapshot, :llm_temperature)}")
after
  5_000 -> raise "nothing came"
end
