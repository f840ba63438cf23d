defmodule DSPexFleet.Recorders do
  @moduledoc """
  Recorders: which share of a program's finished predictions is kept for datasets, and for how long.

      {:ok, _recorder} = Recorders.set(session, "qa", share: 0.1, drop: ["inputs.email"], expires_s: 7 * 86_400)
      {:ok, [%{records: 812}]} = Recorders.list(session)

  A recorder is a map of `:program`, `:share`, `:keep`, `:drop`, `:replace`, `:max_records`, `:expires_s` and `:errors`. They are
  variables of the session `dspex.recorders`, which the token has to cover, with the scope `control` to set or remove one; the session
  that is given only says which connection to use. `DSPexFleet.Datasets.add_from_predictions/4` makes a dataset of what they keep.
  """

  alias DSPexFleet.{Call, Error, Options, Session, Snapshot}

  @type recorder :: %{
          program: String.t(),
          share: float,
          keep: [String.t()],
          drop: [String.t()],
          replace: [String.t()],
          max_records: pos_integer,
          expires_s: pos_integer,
          errors: boolean
        }
  @type report :: %{recorder: recorder, records: non_neg_integer, oldest: DateTime.t() | nil}

  @fields ~w(program share keep drop replace max_records expires_s errors)a
  @author [type: :string, default: "", doc: "Who, where the gateway asks for no token."]
  @call_schema Options.call()
  @set_schema Options.call(
                share: [type: {:or, [:float, {:in, [1]}]}, doc: "Of its predictions; all by default."],
                keep: [
                  type: {:list, :string},
                  default: [],
                  doc: "The fields that are kept, as `\"inputs.FIELD\"` and `\"outputs.FIELD\"`; all by default."
                ],
                drop: [type: {:list, :string}, default: [], doc: "Fields that aren't kept."],
                replace: [type: {:list, :string}, default: [], doc: "Fields of which only the name is kept."],
                max_records: [type: :pos_integer, doc: "The most predictions; 10,000 by default."],
                expires_s: [type: :pos_integer, doc: "For how long each is kept; 7 days by default."],
                errors: [
                  type: :boolean,
                  doc: "Whether predictions that failed are recorded too, as they are by default."
                ],
                author: @author
              )
  @remove_schema Options.call(
                   erase: [type: :boolean, default: false, doc: "Whether what it has recorded is erased."],
                   author: @author
                 )

  @doc "Returns the recorders, each with how many predictions are recorded, and when the `:oldest` of them ended."
  @spec list(Session.ref(), keyword) :: {:ok, [report]} | {:error, Error.t()}
  def list(session, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @call_schema),
         {:ok, answer} <- run(session, :list_recorders, "Recorders.List", %{}, opts),
         do: {:ok, Enum.map(answer["recorders"], &report/1)}
  end

  @doc """
  Sets a program's recorder, in place of the one that it has.

  #{NimbleOptions.docs(@set_schema)}
  """
  @spec set(Session.ref(), String.t(), keyword) :: {:ok, recorder} | {:error, Error.t()}
  def set(session, program, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @set_schema),
         {:ok, program} <- Options.string(program, "a program"),
         fields = opts |> Keyword.delete(:timeout) |> Map.new(fn {name, value} -> {to_string(name), value} end),
         message = Map.put(fields, "program", program),
         {:ok, answer} <- run(session, :set_recorder, "Recorders.Set", message, opts),
         do: {:ok, recorder(answer)}
  end

  @doc """
  Removes a program's recorder, if it has one.

  #{NimbleOptions.docs(@remove_schema)}
  """
  @spec remove(Session.ref(), String.t(), keyword) :: :ok | {:error, Error.t()}
  def remove(session, program, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @remove_schema),
         {:ok, program} <- Options.string(program, "a program"),
         message = %{"program" => program, "erase" => opts[:erase], "author" => opts[:author]},
         {:ok, _answer} <- run(session, :remove_recorder, "Recorders.Remove", message, opts),
         do: :ok
  end

  @doc "Like `list/2`, but returns the recorders themselves or raises `DSPexFleet.Error`."
  @spec list!(Session.ref(), keyword) :: [report]
  def list!(session, opts \\ []), do: session |> list(opts) |> Error.unwrap!()

  @doc "Like `set/3`, but returns the recorder itself or raises `DSPexFleet.Error`."
  @spec set!(Session.ref(), String.t(), keyword) :: recorder
  def set!(session, program, opts \\ []), do: session |> set(program, opts) |> Error.unwrap!()

  defp run(session, name, operation, message, opts),
    do: Call.run(session, name, operation, fn _session -> message end, opts[:timeout])

  defp report(message) do
    %{
      recorder: recorder(message["recorder"]),
      records: message["records"],
      oldest: Snapshot.time(message["oldest"])
    }
  end

  defp recorder(message), do: Map.new(@fields, &{&1, message[to_string(&1)]})
end
