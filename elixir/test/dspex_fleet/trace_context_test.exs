defmodule DSPexFleet.TraceContextTest do
  use ExUnit.Case, async: true

  alias DSPexFleet.{Call, Context, Error, Processes, TraceContext}

  @given "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
  @trace_id 0x4BF92F3577B34DA6A3CE929D0E0E4736
  @span_id 0x00F067AA0BA902B7
  @current "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

  defmodule Stub do
    def echo(_channel, _request, opts), do: {:ok, opts[:metadata]}
    def break(_channel, headers, _opts), do: exit({:noproc, {GenServer, :call, [self(), headers, 5_000]}})
  end

  # The test itself stands for the connection.
  defp context do
    Processes.register({%GRPC.Channel{}, fn -> %{"authorization" => "Bearer sesame"} end})
    {:ok, ctx} = Context.start_link(connection: self(), session: "s")
    ctx
  end

  defp enter_span do
    span = :otel_tracer.from_remote_span(@trace_id, @span_id, 1)
    :otel_tracer.set_current_span(span)
  end

  defp echo(ctx, opts \\ []), do: Call.run(ctx, :submit, {Stub, :echo}, fn _session -> %{} end, 1_000, opts)

  test "a request continues the trace of the process's current span" do
    enter_span()
    assert {:ok, %{"traceparent" => @current, "authorization" => "Bearer sesame"}} = echo(context())
  end

  test "a request without a span carries no trace context" do
    assert echo(context()) == {:ok, %{"authorization" => "Bearer sesame"}}
  end

  test "a trace context that is given comes before the current span's, without its state" do
    enter_span()
    assert {:ok, %{"traceparent" => @given} = metadata} = echo(context(), traceparent: @given)
    assert Enum.sort(Map.keys(metadata)) == ["authorization", "traceparent"]
  end

  test "a malformed trace context is ignored" do
    for text <- ["", "nonsense", @given <> "\r\nx: y", String.duplicate("0", 100_000), <<255>>] do
      assert TraceContext.put(%{}, text) == %{}
    end
  end

  test "the error of a lost connection shows no arguments of the call" do
    call = {Stub, :break, [{"authorization", "Bearer sesame"}]}
    assert {:error, %Error{reason: :gateway_unavailable} = error} = Call.send_once(%GRPC.Channel{}, %{}, call, 1_000)
    assert error.message =~ "noproc"
    refute inspect(error) =~ "sesame"
  end
end
