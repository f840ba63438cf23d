defmodule DSPexFleet.TraceContextTest do
  use ExUnit.Case, async: true

  alias DSPexFleet.TraceContext

  @given "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
  @trace_id 0x4BF92F3577B34DA6A3CE929D0E0E4736
  @span_id 0x00F067AA0BA902B7
  @current "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
  @token {"authorization", "Bearer sesame"}

  defp enter_span do
    span = :otel_tracer.from_remote_span(@trace_id, @span_id, 1)
    :otel_tracer.set_current_span(span)
  end

  test "a request continues the trace of the process's current span" do
    enter_span()
    headers = TraceContext.put([@token], nil)
    assert {"traceparent", @current} in headers
    assert @token in headers
  end

  test "a request without a span carries no trace context" do
    assert TraceContext.put([@token], nil) == [@token]
  end

  test "a trace context that is given comes before the current span's, without its state" do
    enter_span()
    assert TraceContext.put([@token], @given) == [{"traceparent", @given}, @token]
  end

  test "a malformed trace context is ignored" do
    for text <- ["", "nonsense", @given <> "\r\nx: y", String.duplicate("0", 100_000), <<255>>] do
      assert TraceContext.put([], text) == []
    end
  end
end
