defmodule DSPexFleet.Programs do
  @moduledoc """
  The programs that predictions run, referred to as `"name"`, `"name@label"` or `"name:version"`.

  Each is a map of `:name`, `:version`, `:content` (the digest of its spec), `:labels` and, from `register/4` and `get/3`,
  `:spec`.
  """

  alias Dspex.Fleet.V1
  alias Dspex.Fleet.V1.Programs.Stub
  alias DSPexFleet.{Call, Context, Error, Values, Variable}

  @type program :: %{name: String.t(), version: pos_integer, content: String.t(), labels: [String.t()], spec: map | nil}

  @doc "Registers a spec as the next version of a name, unless it exists already; `:labels` are moved to it."
  @spec register(Context.t(), String.t(), map, keyword) :: {:ok, program} | {:error, Error.t()}
  def register(context, name, spec, opts \\ []) do
    opts = Keyword.validate!(opts, labels: [], timeout: Call.default_timeout())

    build = fn _session ->
      with {:ok, json} <- Values.encode(spec) do
        {:ok, %V1.RegisterRequest{name: name, spec_json: json, labels: opts[:labels]}}
      end
    end

    with {:ok, wire} <- Call.run(context, :register, {Stub, :register}, build, opts[:timeout]), do: program(wire)
  end

  @doc "Returns one program by its reference."
  @spec get(Context.t(), String.t(), keyword) :: {:ok, program} | {:error, Error.t()}
  def get(context, reference, opts \\ []) do
    opts = Keyword.validate!(opts, timeout: Call.default_timeout())
    build = fn _session -> %V1.GetProgramRequest{reference: reference} end
    with {:ok, wire} <- Call.run(context, :get_program, {Stub, :get}, build, opts[:timeout]), do: program(wire)
  end

  @doc "Returns all programs whose names begin with `:prefix`."
  @spec list(Context.t(), keyword) :: {:ok, [program]} | {:error, Error.t()}
  def list(context, opts \\ []) do
    opts = Keyword.validate!(opts, prefix: "", timeout: Call.default_timeout())
    pages(context, opts, "", [])
  end

  defp pages(context, opts, page_token, before) do
    build = fn _session -> %V1.ListProgramsRequest{prefix: opts[:prefix], page_size: 100, page_token: page_token} end

    with {:ok, wire} <- Call.run(context, :list_programs, {Stub, :list}, build, opts[:timeout]),
         {:ok, page} <- Variable.traverse(wire.programs, &program/1) do
      if wire.next_page_token == "",
        do: {:ok, before ++ page},
        else: pages(context, opts, wire.next_page_token, before ++ page)
    end
  end

  @doc "Like `register/4`, but returns the program itself or raises `DSPexFleet.Error`."
  @spec register!(Context.t(), String.t(), map, keyword) :: program
  def register!(context, name, spec, opts \\ []), do: context |> register(name, spec, opts) |> Error.unwrap!()

  @doc "Like `get/3`, but returns the program itself or raises `DSPexFleet.Error`."
  @spec get!(Context.t(), String.t(), keyword) :: program
  def get!(context, reference, opts \\ []), do: context |> get(reference, opts) |> Error.unwrap!()

  @doc "Like `list/2`, but returns the programs themselves or raises `DSPexFleet.Error`."
  @spec list!(Context.t(), keyword) :: [program]
  def list!(context, opts \\ []), do: context |> list(opts) |> Error.unwrap!()

  defp program(%V1.Program{} = wire) do
    with {:ok, spec} <- spec(wire.spec_json) do
      {:ok, %{name: wire.name, version: wire.version, content: wire.content, labels: wire.labels, spec: spec}}
    end
  end

  defp spec(""), do: {:ok, nil}
  defp spec(json), do: Values.decode(json)
end
