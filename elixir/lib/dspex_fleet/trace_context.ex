defmodule DSPexFleet.TraceContext do
  @moduledoc false
  # The caller's W3C trace context as headers of a request: the one that it gives, else that of the process's current
  # span where the application has OpenTelemetry.

  @compile {:no_warn_undefined, [:otel_ctx, :otel_propagator_trace_context]}
  @propagator :otel_propagator_trace_context
  @traceparent ~r/\A[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\z/

  @type headers :: [{String.t(), String.t()}]

  @doc "Loads OpenTelemetry's propagator and returns true if the application has it. `put/2` asks for loaded modules alone."
  @spec load() :: boolean
  def load, do: Code.ensure_loaded?(@propagator)

  @doc "Adds a trace context to the headers of a request; a malformed one is ignored, as W3C's specification wants it."
  @spec put(headers, String.t() | nil) :: headers
  def put(headers, nil), do: current() ++ headers

  def put(headers, traceparent) when is_binary(traceparent) do
    if traceparent =~ @traceparent, do: [{"traceparent", traceparent} | headers], else: headers
  end

  defp current do
    if function_exported?(@propagator, :inject, 4) do
      :otel_propagator_trace_context.inject(:otel_ctx.get_current(), [], &[{&1, &2} | &3], [])
    else
      []
    end
  end
end
