defmodule DSPexFleet.Session do
  @moduledoc """
  A session of the fleet, the first argument of most functions of this package: its id, and the connection to reach it by.

      session = DSPexFleet.Session.new("support", connection: MyApp.Fleet)
      {:ok, token} = DSPexFleet.Variables.publish(session, llm_temperature: 0.2)

  It is data: making one costs nothing and starts nothing, so that an application can have one for each of its users. The
  session itself lives on the fleet: the first publish creates it. `DSPexFleet.Context` is a session with a process and a
  name, for applications that have a few; each function takes either.
  """

  alias DSPexFleet.{Call, Connection, Context, Error}

  @type t :: %__MODULE__{id: String.t(), connection: Connection.server()}
  @typedoc "A session, or a running `DSPexFleet.Context`."
  @type ref :: t | Context.t()

  @enforce_keys [:id, :connection]
  defstruct [:id, :connection]

  @doc """
  Returns a session by its id.

  `:connection` is a running `DSPexFleet.Connection` by its name or pid, by default that of
  `config :dspex_fleet, connection: MyApp.Fleet`.
  """
  @spec new(String.t(), keyword) :: t
  def new(id, opts \\ []) do
    opts = Keyword.validate!(opts, [:connection])
    %__MODULE__{id: id, connection: opts[:connection] || configured!()}
  end

  @doc "Returns a session under a new id."
  @spec generate(keyword) :: t
  def generate(opts \\ []), do: new("elixir-" <> Call.fresh_id(), opts)

  @doc "Returns the id of a session or context; raises `DSPexFleet.Error` if there is none."
  @spec id!(ref) :: String.t()
  def id!(ref), do: ref |> resolve() |> Error.unwrap!() |> Map.fetch!(:id)

  @doc false
  # Returns the session that a function's first argument stands for.
  @spec resolve(term) :: {:ok, t} | {:error, Error.t()}
  def resolve(%__MODULE__{id: id} = session) do
    if is_binary(id) and id != "" and String.valid?(id) do
      {:ok, session}
    else
      {:error, Error.new(:session_name, "expected a session's id as a string with text, got: #{inspect(id)}")}
    end
  end

  def resolve(ref) when is_pid(ref) or (is_atom(ref) and ref not in [nil, true, false]) or is_tuple(ref) do
    with {:ok, id, connection} <- Context.lookup(ref), do: {:ok, %__MODULE__{id: id, connection: connection}}
  end

  def resolve(other) do
    {:error, Error.new(:invalid_value, "expected a DSPexFleet.Session or a context, got: #{inspect(other)}")}
  end

  defp configured! do
    Application.get_env(:dspex_fleet, :connection) ||
      raise ArgumentError, "no :connection given, and none in config :dspex_fleet, connection: MyApp.Fleet"
  end
end
