defmodule DSPexFleet.Prediction do
  @moduledoc """
  A prediction and its state.

    * `:outputs` – a map by output field (a string), once it has succeeded: `prediction.outputs["answer"]`.
    * `:provenance` – what produced the outputs: `:token` and `:session` of the variables, `:program` and
      `:program_version`, `:model`, `:prompt_tokens` and `:completion_tokens`, `:staleness_s`, `:outage`, `:worker`,
      `:arms` (of rollouts, each a map of `:rollout`, the id, `:arm`, `:stage` and `:target`), and the whole `:record`.
    * `:completions` – the outputs of every completion, if the program has several; `:outputs` are the first.
    * `:trace` – the program's steps, if it was submitted with `trace: true`.
    * `:error` – the error of a prediction that failed or was cancelled; `DSPexFleet.await/2` returns it as
      `{:error, error}`.
  """

  alias DSPexFleet.{Error, Token}

  @type state :: :queued | :running | :succeeded | :failed | :cancelled | :unknown
  @type t :: %__MODULE__{
          id: String.t(),
          state: state,
          outputs: %{String.t() => term} | nil,
          provenance: map | nil,
          completions: [map] | nil,
          trace: [map] | nil,
          error: Error.t() | nil
        }

  defstruct [:id, :state, :outputs, :provenance, :completions, :trace, :error]

  @states Map.new(~w(queued running succeeded failed cancelled)a, &{to_string(&1), &1})

  @doc "Returns true if a prediction has succeeded, failed or been cancelled."
  @spec ended?(t) :: boolean
  def ended?(%__MODULE__{state: state}), do: state in [:succeeded, :failed, :cancelled]

  @doc false
  # The error of a prediction that failed or was cancelled, otherwise the prediction.
  @spec outcome(t) :: {:ok, t} | {:error, Error.t()}
  def outcome(%__MODULE__{state: :failed} = failed) do
    {:error, failed.error || Error.new(:prediction_failed, "prediction #{failed.id} failed without a reason")}
  end

  def outcome(%__MODULE__{state: :cancelled} = cancelled) do
    {:error, cancelled.error || Error.new(:prediction_cancelled, "prediction #{cancelled.id} was cancelled")}
  end

  def outcome(%__MODULE__{} = prediction), do: {:ok, prediction}

  @doc false
  @spec state(String.t()) :: state
  def state(text), do: Map.get(@states, text, :unknown)

  @doc false
  # A prediction without a session has no token.
  @spec token(String.t() | nil) :: Token.t() | nil
  def token(text) do
    case is_binary(text) && Token.parse(text) do
      {:ok, token} -> token
      _none -> nil
    end
  end

  @doc false
  # The arms of rollouts and experiments that a prediction ran under.
  @spec arms([map] | nil) :: [map]
  def arms(messages) do
    for message <- messages || [], do: Map.new(~w(rollout arm stage target)a, &{&1, message[to_string(&1)]})
  end

  @doc false
  @spec from_message(map) :: t
  def from_message(message) do
    %__MODULE__{
      id: message["id"],
      state: state(message["state"]),
      outputs: message["outputs"],
      provenance: provenance(message["provenance"]),
      completions: message["completions"],
      trace: message["trace"],
      error: message["error"] && Error.from_response(message["error"])
    }
  end

  @provenance ~w(session digest program program_version model prompt_tokens completion_tokens staleness_s outage worker
                 cost_usd record)a

  defp provenance(nil), do: nil

  defp provenance(message) do
    @provenance
    |> Map.new(&{&1, message[to_string(&1)]})
    |> Map.merge(%{token: token(message["token"]), arms: arms(message["arms"])})
  end
end
