# Requests a prediction within a span of the trace and span ids that are given, as an application with OpenTelemetry
# has it.
[trace, span] = Enum.map(System.argv(), &String.to_integer(&1, 16))
trace |> :otel_tracer.from_remote_span(span, 1) |> :otel_tracer.set_current_span()

{:ok, ctx} =
  DSPexFleet.Context.start_link(
    target: System.fetch_env!("DSPEX_FLEET_TARGET"),
    token: System.get_env("DSPEX_FLEET_TOKEN")
  )

DSPexFleet.Variables.publish!(ctx, warmth: 0.5)
IO.puts("prediction #{DSPexFleet.predict!(ctx, "asked", %{question: "Which trace is this?"}).id}")
