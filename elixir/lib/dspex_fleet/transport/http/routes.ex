defmodule DSPexFleet.Transport.HTTP.Routes do
  @moduledoc false
  # Where the gateway serves each operation. A test of the fleet compares the table with the gateway's own.

  @routes %{
    "Approvals.Approve" => {:post, "/v1/approvals/{id}/approve"},
    "Approvals.Get" => {:get, "/v1/approvals/{id}"},
    "Approvals.List" => {:get, "/v1/approvals"},
    "Approvals.Reject" => {:post, "/v1/approvals/{id}/reject"},
    "Audit.List" => {:get, "/v1/audit"},
    "Costs.Report" => {:get, "/v1/costs"},
    "Datasets.Add" => {:post, "/v1/datasets"},
    "Datasets.AddFromPredictions" => {:post, "/v1/datasets/from-predictions"},
    "Datasets.Diff" => {:get, "/v1/datasets/{before}/diff"},
    "Datasets.Get" => {:get, "/v1/datasets/{reference}"},
    "Datasets.List" => {:get, "/v1/datasets"},
    "Datasets.ListExamples" => {:get, "/v1/datasets/{reference}/examples"},
    "Datasets.ListVersions" => {:get, "/v1/datasets/{name}/versions"},
    "Datasets.Remove" => {:post, "/v1/datasets/{reference}/remove"},
    "DeadLetters.Drop" => {:post, "/v1/dead-letters/{id}/drop"},
    "DeadLetters.Get" => {:get, "/v1/dead-letters/{id}"},
    "DeadLetters.List" => {:get, "/v1/dead-letters"},
    "DeadLetters.Retry" => {:post, "/v1/dead-letters/{id}/retry"},
    "Evaluations.Compare" => {:get, "/v1/evaluations/{baseline}/compare"},
    "Evaluations.Get" => {:get, "/v1/evaluations/{id}"},
    "Evaluations.List" => {:get, "/v1/evaluations"},
    "Evaluations.ListExamples" => {:get, "/v1/evaluations/{id}/examples"},
    "Evaluations.Start" => {:post, "/v1/evaluations"},
    "Experiments.Decide" => {:post, "/v1/experiments/{target}/{experiment}/decide"},
    "Experiments.Events" => {:get, "/v1/experiments/{target}/events"},
    "Experiments.List" => {:get, "/v1/experiments"},
    "Experiments.Show" => {:get, "/v1/experiments/{target}/{experiment}/report"},
    "Experiments.Start" => {:post, "/v1/experiments"},
    "Experiments.Stop" => {:post, "/v1/experiments/{target}/{experiment}/stop"},
    "Jobs.Cancel" => {:post, "/v1/jobs/{id}/cancel"},
    "Jobs.Get" => {:get, "/v1/jobs/{id}"},
    "Jobs.List" => {:get, "/v1/jobs"},
    "Jobs.Watch" => {:get, "/v1/jobs/{id}/watch"},
    "Judges.Add" => {:post, "/v1/judges"},
    "Judges.List" => {:get, "/v1/judges"},
    "Judges.Remove" => {:post, "/v1/judges/{judged}/{name}/remove"},
    "Optimizations.Start" => {:post, "/v1/optimizations"},
    "Predictions.Await" => {:get, "/v1/predictions/{id}/await"},
    "Predictions.Cancel" => {:post, "/v1/predictions/{id}/cancel"},
    "Predictions.Get" => {:get, "/v1/predictions/{id}"},
    "Predictions.ListLMCalls" => {:get, "/v1/predictions/{id}/lm-calls"},
    "Predictions.Replay" => {:post, "/v1/predictions/{id}/replay"},
    "Predictions.Search" => {:get, "/v1/predictions"},
    "Predictions.Stream" => {:get, "/v1/predictions/{id}/stream"},
    "Predictions.Submit" => {:post, "/v1/predictions"},
    "Predictions.SubmitBatch" => {:post, "/v1/predictions/batch"},
    "Programs.Get" => {:get, "/v1/programs/{reference}"},
    "Programs.List" => {:get, "/v1/programs"},
    "Programs.ListVersions" => {:get, "/v1/programs/{name}/versions"},
    "Programs.Register" => {:post, "/v1/programs"},
    "Programs.SetLabel" => {:post, "/v1/programs/{name}/labels"},
    "Protections.List" => {:get, "/v1/protections"},
    "Protections.Protect" => {:post, "/v1/protections"},
    "Protections.Unprotect" => {:post, "/v1/protections/remove"},
    "Recorders.List" => {:get, "/v1/recorders"},
    "Recorders.Remove" => {:post, "/v1/recorders/{program}/remove"},
    "Recorders.Set" => {:post, "/v1/recorders"},
    "Rollouts.Abort" => {:post, "/v1/rollouts/{target}/abort"},
    "Rollouts.Advance" => {:post, "/v1/rollouts/{target}/advance"},
    "Rollouts.List" => {:get, "/v1/rollouts"},
    "Rollouts.Pause" => {:post, "/v1/rollouts/{target}/pause"},
    "Rollouts.Resume" => {:post, "/v1/rollouts/{target}/resume"},
    "Rollouts.Show" => {:get, "/v1/rollouts/{target}/report"},
    "Rollouts.Start" => {:post, "/v1/rollouts"},
    "Rollouts.Watch" => {:get, "/v1/rollouts/{target}/watch"},
    "Scores.List" => {:get, "/v1/predictions/{id}/scores"},
    "Scores.Score" => {:post, "/v1/predictions/{id}/scores"},
    "Sessions.DeclareChecks" => {:post, "/v1/sessions/{session}/checks"},
    "Sessions.Get" => {:get, "/v1/sessions/{session}/state"},
    "Sessions.GetRetention" => {:get, "/v1/sessions/{session}/retention"},
    "Sessions.List" => {:get, "/v1/sessions"},
    "Sessions.ListChecks" => {:get, "/v1/sessions/{session}/checks"},
    "Sessions.ListLabels" => {:get, "/v1/sessions/{session}/labels"},
    "Sessions.Promote" => {:post, "/v1/sessions/{session}/labels/{label}/promote"},
    "Sessions.RemoveLabel" => {:post, "/v1/sessions/{session}/labels/{label}/remove"},
    "Sessions.SetLabel" => {:post, "/v1/sessions/{session}/labels"},
    "Sessions.SetRetention" => {:post, "/v1/sessions/{session}/retention"},
    "Status.Get" => {:get, "/v1/status"},
    "Variables.Diff" => {:get, "/v1/sessions/{session}/diff"},
    "Variables.Get" => {:get, "/v1/sessions/{session}/variables"},
    "Variables.History" => {:get, "/v1/sessions/{session}/history"},
    "Variables.Publish" => {:post, "/v1/sessions/{session}/publish"},
    "Variables.Rollback" => {:post, "/v1/sessions/{session}/rollback"},
    "Variables.Watch" => {:get, "/v1/sessions/{session}/watch"}
  }

  @doc "Returns the HTTP method, the path with its query, and the body of a request."
  @spec request(String.t(), map) :: {String.t(), String.t(), iodata | nil}
  def request(operation, message) do
    {method, template} = Map.fetch!(@routes, operation)
    {path, rest} = fill(template, message)

    case method do
      :get -> {"GET", path <> query(rest), nil}
      :post -> {"POST", path, JSON.encode_to_iodata!(rest)}
    end
  end

  defp fill(template, message) do
    ~r/\{(\w+)\}/
    |> Regex.scan(template)
    |> Enum.reduce({template, message}, fn [place, name], {path, rest} ->
      {value, rest} = Map.pop!(rest, name)
      {String.replace(path, place, URI.encode(value, &URI.char_unreserved?/1)), rest}
    end)
  end

  defp query(rest) when map_size(rest) == 0, do: ""

  defp query(rest) do
    pairs = Enum.flat_map(rest, fn {name, value} -> value |> List.wrap() |> Enum.map(&{name, &1}) end)
    if pairs == [], do: "", else: "?" <> URI.encode_query(pairs, :rfc3986)
  end
end
