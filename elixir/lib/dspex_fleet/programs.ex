defmodule DSPexFleet.Programs do
  @moduledoc """
  The programs that predictions run, referred to as `"name"`, `"name@label"` or `"name:version"`.

  Each is a map of `:name`, `:version`, `:content` (the digest of its spec), `:labels` and, from `get/3`,
  `:spec` and, for what an optimizer found, `:lineage`. From `list/2` each is in its newest version, and `:label_versions` has
  all labels of the program with the version of each.
  """

  alias DSPexFleet.{Call, Error, Options, Pages, Session, Values}

  @type program :: %{
          name: String.t(),
          version: pos_integer,
          content: String.t(),
          labels: [String.t()],
          spec: map | nil,
          lineage: map | nil,
          label_versions: %{String.t() => pos_integer} | nil
        }

  @register_schema Options.call(
                     labels: [type: Options.names(), default: [], doc: "Labels that are moved to the version."],
                     state: [
                       type: Options.object(),
                       doc:
                         "What DSPy's `dump_state` returned, for an optimised program: its demos and instructions. Its LM and " <>
                           "its metadata are left out, since the fleet has its own."
                     ]
                   )
  @get_schema Options.call()
  @label_schema Options.call(author: [type: :string, default: ""], reason: [type: :string, default: ""])
  @list_schema Options.call(prefix: [type: :string, default: "", doc: "What the names begin with."])

  @doc """
  Registers a spec as the next version of a name, unless it exists already.

  #{NimbleOptions.docs(@register_schema)}
  """
  @spec register(Session.ref(), String.t(), map, keyword) :: {:ok, program} | {:error, Error.t()}
  def register(session, name, spec, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @register_schema),
         {:ok, name} <- Options.name(name),
         {:ok, encoded} <- spec |> with_state(opts[:state]) |> Values.encode_object("a program's spec"),
         message = %{"name" => name, "spec" => encoded, "labels" => opts[:labels]},
         {:ok, answer} <- Call.run(session, :register, "Programs.Register", fn _session -> message end, opts[:timeout]) do
      {:ok, program(answer)}
    end
  end

  @doc "Returns one program by its reference. Options: `:timeout`."
  @spec get(Session.ref(), String.t(), keyword) :: {:ok, program} | {:error, Error.t()}
  def get(session, reference, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @get_schema),
         {:ok, reference} <- Options.string(reference, "a program's reference"),
         message = %{"reference" => reference},
         {:ok, answer} <- Call.run(session, :get_program, "Programs.Get", fn _session -> message end, opts[:timeout]) do
      {:ok, program(answer)}
    end
  end

  @doc "Returns all programs whose names begin with `:prefix`."
  @spec list(Session.ref(), keyword) :: {:ok, [program]} | {:error, Error.t()}
  def list(session, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @list_schema) do
      page = &Map.put(&1, "prefix", opts[:prefix])
      Pages.read(session, :list_programs, {"Programs.List", "programs"}, page, opts, &{:ok, program(&1)})
    end
  end

  @doc "Returns every version of a program, the newest first. Options: `:timeout`."
  @spec versions(Session.ref(), String.t(), keyword) :: {:ok, [program]} | {:error, Error.t()}
  def versions(session, name, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @get_schema),
         {:ok, name} <- Options.name(name),
         build = fn _session -> %{"name" => name} end,
         {:ok, answer} <- Call.run(session, :list_versions, "Programs.ListVersions", build, opts[:timeout]),
         do: {:ok, Enum.map(answer["versions"], &program/1)}
  end

  @doc """
  Points a label at a version; a rollout of the label ends, unless the label stays there.

  #{NimbleOptions.docs(@label_schema)}
  """
  @spec set_label(Session.ref(), String.t(), atom | String.t(), pos_integer, keyword) ::
          {:ok, program} | {:error, Error.t()}
  def set_label(session, name, label, version, opts \\ []) do
    with {:ok, opts} <- Options.validate(opts, @label_schema),
         {:ok, name} <- Options.name(name),
         {:ok, label} <- Options.name(label),
         {:ok, version} <- version(version),
         message = %{
           "name" => name,
           "label" => label,
           "version" => version,
           "author" => opts[:author],
           "reason" => opts[:reason]
         },
         build = fn _session -> message end,
         {:ok, answer} <- Call.run(session, :set_program_label, "Programs.SetLabel", build, opts[:timeout]),
         do: {:ok, program(answer)}
  end

  @doc "Like `register/4`, but returns the program itself or raises `DSPexFleet.Error`."
  @spec register!(Session.ref(), String.t(), map, keyword) :: program
  def register!(session, name, spec, opts \\ []), do: session |> register(name, spec, opts) |> Error.unwrap!()

  @doc "Like `get/3`, but returns the program itself or raises `DSPexFleet.Error`."
  @spec get!(Session.ref(), String.t(), keyword) :: program
  def get!(session, reference, opts \\ []), do: session |> get(reference, opts) |> Error.unwrap!()

  @doc "Like `versions/3`, but returns the programs themselves or raises `DSPexFleet.Error`."
  @spec versions!(Session.ref(), String.t(), keyword) :: [program]
  def versions!(session, name, opts \\ []), do: session |> versions(name, opts) |> Error.unwrap!()

  @doc "Like `set_label/5`, but returns the program itself or raises `DSPexFleet.Error`."
  @spec set_label!(Session.ref(), String.t(), atom | String.t(), pos_integer, keyword) :: program
  def set_label!(session, name, label, version, opts \\ []),
    do: session |> set_label(name, label, version, opts) |> Error.unwrap!()

  @doc "Like `list/2`, but returns the programs themselves or raises `DSPexFleet.Error`."
  @spec list!(Session.ref(), keyword) :: [program]
  def list!(session, opts \\ []), do: session |> list(opts) |> Error.unwrap!()

  defp version(number) when is_integer(number) and number > 0, do: {:ok, number}

  defp version(other) do
    {:error, Error.new(:invalid_value, "expected the number of a version, got: #{inspect(other)}")}
  end

  defp with_state(spec, nil), do: spec

  defp with_state(spec, state) when is_map(spec) and not is_struct(spec) do
    state = for {part, saved} <- state, to_string(part) != "metadata", into: %{}, do: {to_string(part), saved}
    # DSPy writes the state of a single predictor without a name.
    parts = if is_map_key(state, "signature"), do: %{"self" => state}, else: state
    spec |> Map.drop([:state, "state"]) |> Map.put("state", Map.new(parts, &without_lm/1))
  end

  defp with_state(spec, state), do: if(Keyword.keyword?(spec), do: spec |> Map.new() |> with_state(state), else: spec)

  defp without_lm({part, saved}) when is_map(saved), do: {part, saved |> Map.delete(:lm) |> Map.put("lm", nil)}
  defp without_lm(other), do: other

  defp program(message) do
    %{
      name: message["name"],
      version: message["version"],
      content: message["content"],
      labels: message["labels"],
      spec: message["spec"],
      lineage: message["lineage"],
      label_versions: message["label_versions"]
    }
  end
end
