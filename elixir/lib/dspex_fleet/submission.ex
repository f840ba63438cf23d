defmodule DSPexFleet.Submission do
  @moduledoc false
  # The request of a prediction.

  alias DSPexFleet.{Error, Options, Requirement, Session, Values}

  @options Requirement.schema() ++
             [
               deadline: [type: :pos_integer, doc: "Milliseconds from now after which the prediction fails."],
               idempotency_key: [type: :string, doc: "Requests with the same key and content are one prediction."],
               priority: [type: {:in, 0..9}, doc: "0 to 9, 9 being the most urgent. Default 5."],
               max_staleness: [
                 type: :non_neg_integer,
                 doc: "Maximum milliseconds since the variables were last confirmed."
               ],
               outage: [
                 type: {:or, [{:in, [:fail]}, {:tuple, [{:in, [:serve_stale]}, :pos_integer]}]},
                 doc:
                   "How to proceed while Redis or the session's authority is unavailable: `:fail`, or " <>
                     "`{:serve_stale, milliseconds}` to run on variables that were confirmed at most that long ago. The " <>
                     "fleet's setting by default."
               ],
               key: [
                 type: :string,
                 doc:
                   "What rollouts and experiments assign the prediction by, such as a user's id: the same key gets the same " <>
                     "arm. By default the prediction's own id."
               ],
               attributes: [
                 type: Options.object(),
                 doc: "What is known of the request's origin, such as `%{plan: \"pro\"}`, for experiments on a segment."
               ],
               stream: [
                 type: :boolean,
                 default: false,
                 doc: "Whether `stream/1` delivers the output in pieces while the LM generates it."
               ],
               trace: [
                 type: :boolean,
                 default: false,
                 doc: "Whether the prediction has the program's steps in `:trace`."
               ],
               traceparent: [
                 type: :string,
                 doc:
                   "The W3C trace context that the prediction's trace continues; a malformed one is ignored. By default " <>
                     "that of the process's current span, if the application has `opentelemetry_api`."
               ]
             ]

  @doc "Returns the options of a submission."
  @spec options() :: keyword
  def options, do: @options

  @doc "Returns the message of a prediction's request."
  @spec message(Session.t(), term, term, String.t(), keyword) :: {:ok, map} | {:error, Error.t()}
  def message(session, program, inputs, key, opts) do
    with {:ok, program} <- Options.string(program, "a program"),
         {:ok, requirement} <- Requirement.fields(opts),
         {:ok, inputs} <- Values.encode_object(inputs, "inputs"),
         {:ok, attributes} <- attributes(opts[:attributes]) do
      message = %{
        "program" => program,
        "session" => session.id,
        "inputs" => inputs,
        "deadline_s" => seconds(opts[:deadline]),
        "idempotency_key" => key,
        "priority" => opts[:priority],
        "max_staleness_s" => seconds(opts[:max_staleness]),
        "stream" => opts[:stream],
        "trace" => opts[:trace],
        "outage" => outage(opts[:outage]),
        "key" => opts[:key],
        "attributes" => attributes
      }

      {:ok, message |> Map.merge(requirement) |> Map.reject(fn {_field, value} -> value == nil end)}
    end
  end

  defp seconds(nil), do: nil
  defp seconds(milliseconds), do: milliseconds / 1_000

  defp attributes(nil), do: {:ok, nil}
  defp attributes(given), do: Values.encode_object(given, "attributes")

  defp outage(nil), do: nil
  defp outage(:fail), do: "fail"
  defp outage({:serve_stale, milliseconds}), do: "serve_stale(#{milliseconds / 1_000})"
end
