defmodule DSPexFleet.Testing do
  @moduledoc """
  A fleet in memory for the tests of applications: no gateway, no Redis, no worker.

      setup do
        fleet = start_supervised!(DSPexFleet.Testing)
        DSPexFleet.Testing.answer(fleet, "qa", fn inputs, _variables -> %{answer: "answer of " <> inputs["question"]} end)
        {:ok, session: DSPexFleet.Testing.session(fleet)}
      end

      test "the temperature is lowered for contracts", %{session: session} do
        MyApp.Support.answer(session, "Is this contract valid?")
        DSPexFleet.Testing.assert_published(session, llm_temperature: 0.0)
        DSPexFleet.Testing.assert_submitted(session, "qa", %{question: "Is this contract valid?"})
      end

  It is a `DSPexFleet.Transport`, so that everything above it is the package itself: arguments are checked, values encoded,
  subscribers get their messages, and replicas read. It publishes, reads, watches and rolls back variables, and keeps
  registered programs and the predictions that it is told how to answer; it enforces no constraint and runs no program.
  Whatever else an application calls, and errors, are stubs:

      DSPexFleet.Testing.stub(fleet, "Costs.Report", fn _request -> {:ok, %{"by" => "program", "rows" => []}} end)
      DSPexFleet.Testing.stub(fleet, "Variables.Publish", fn _request -> {:error, :validation} end)
  """

  alias DSPexFleet.{Connection, Error, Session, Values}
  alias DSPexFleet.Testing.{Gateway, Transport}

  @type fleet :: pid
  @type outputs :: map | :pending | {:error, Error.t() | Error.reason()}

  @doc false
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(opts), do: %{id: __MODULE__, start: {__MODULE__, :start_link, [opts]}}

  @doc "Starts a fleet."
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts \\ []), do: Gateway.start_link(opts)

  @doc "Returns a session of the fleet, under a new id by default."
  @spec session(fleet, String.t() | nil) :: Session.t()
  def session(fleet, id \\ nil) do
    connection = Gateway.connection(fleet)
    if id, do: Session.new(id, connection: connection), else: Session.generate(connection: connection)
  end

  @doc "Returns the fleet's `DSPexFleet.Connection`, for code that makes sessions itself."
  @spec connection(fleet) :: pid
  defdelegate connection(fleet), to: Gateway

  @doc """
  Answers predictions of a program by a function of the inputs and the variables, both by their names as strings.

  It returns the outputs, `{:error, reason}` for a prediction that fails, or `:pending` for one that goes on until `finish/3`,
  and runs in the process that submits. A program without an answer is the error `:program_not_found`.
  """
  @spec answer(fleet, String.t(), (map, map -> outputs)) :: :ok
  def answer(fleet, program, fun) when is_function(fun, 2), do: Gateway.put(fleet, {:answer, program}, fun)

  @doc "Ends a prediction that is pending with its outputs or `{:error, reason}`."
  @spec finish(fleet, DSPexFleet.Handle.t(), outputs) :: :ok
  def finish(fleet, handle, outputs), do: Gateway.finish(fleet, handle.id, outputs)

  @doc """
  Answers an operation of the gateway by a function of the request, in place of the fleet.

  It returns `{:ok, response}` with the fields as the gateway names them, or `{:error, reason}`, or `:pass` to leave the
  request to the fleet.
  """
  @spec stub(fleet, String.t(), (map -> {:ok, map} | {:error, Error.t() | Error.reason()} | :pass)) :: :ok
  def stub(fleet, operation, fun) when is_function(fun, 1), do: Gateway.put(fleet, {:stub, operation}, fun)

  @doc "Returns the publishes of a session, each as a map of the changed values by name; nil for a variable that is deleted."
  @spec published(Session.ref()) :: [%{String.t() => term}]
  def published(session) do
    for message <- requests(session, "Variables.Publish"),
        do: Map.new(message["changes"], &{&1["name"], &1["value"]})
  end

  @doc "Returns the submitted predictions of a session as `{program, inputs}`."
  @spec submitted(Session.ref()) :: [{String.t(), map}]
  def submitted(session) do
    for message <- requests(session, "Predictions.Submit"), do: {message["program"], message["inputs"]}
  end

  @doc "Asserts that one publish of a session has set all these variables to these values, and maybe others."
  @spec assert_published(Session.ref(), map | keyword) :: :ok
  def assert_published(session, changes) do
    expected = plain(changes)
    published = published(session)

    if Enum.any?(published, &(Map.take(&1, Map.keys(expected)) == expected)),
      do: :ok,
      else: flunk("Expected a publish with #{inspect(expected)}.", "Publishes", published)
  end

  @doc "Asserts that nothing of a session was published."
  @spec refute_published(Session.ref()) :: :ok
  def refute_published(session) do
    case published(session) do
      [] -> :ok
      published -> flunk("Expected no publish.", "Publishes", published)
    end
  end

  @doc "Asserts that a prediction of a program was submitted, with these inputs if they are given."
  @spec assert_submitted(Session.ref(), String.t(), map | keyword | nil) :: :ok
  def assert_submitted(session, program, inputs \\ nil) do
    expected = inputs && plain(inputs)
    submitted = submitted(session)

    if Enum.any?(submitted, fn {name, given} -> name == program and (expected == nil or given == expected) end),
      do: :ok,
      else: flunk("Expected a prediction of #{program} with #{inspect(expected || :any)}.", "Predictions", submitted)
  end

  defp requests(ref, operation) do
    session = ref |> Session.resolve() |> Error.unwrap!()
    %{transport: Transport, gateway: fleet} = session.connection |> Connection.choose(5_000) |> Error.unwrap!()
    Gateway.requests(fleet, operation, session.id)
  end

  # As it is sent.
  defp plain(given) do
    given |> Map.new() |> Values.encode() |> Error.unwrap!() |> JSON.encode!() |> JSON.decode!()
  end

  @spec flunk(String.t(), String.t(), list) :: no_return
  defp flunk(message, what, []), do: raise(ExUnit.AssertionError, message: "#{message} #{what}: none")

  defp flunk(message, what, found) do
    lines = Enum.map_join(found, "\n", &"  #{inspect(&1)}")
    raise ExUnit.AssertionError, message: "#{message} #{what}:\n#{lines}"
  end
end
