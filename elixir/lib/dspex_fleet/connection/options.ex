defmodule DSPexFleet.Connection.Options do
  @moduledoc """
  The valid options of a `DSPexFleet.Connection`, as a `DSPexFleet.Transport` gets them: `:ssl` are those of `:ssl` for an encrypted target,
  `:pool_size` and `:wait_pool_size` the calls that may go on at a time, and `:transport` is `{transport, argument}`.
  """

  alias DSPexFleet.Connection.Target

  @derive {Inspect, except: [:token, :ssl]}
  @enforce_keys [
    :targets,
    :token,
    :ssl,
    :keepalive,
    :check_timeout,
    :backoff,
    :pool_size,
    :wait_pool_size,
    :pubsub,
    :transport
  ]
  defstruct @enforce_keys

  @type t :: %__MODULE__{
          targets: [Target.t(), ...],
          token: String.t() | (-> String.t()) | nil,
          ssl: keyword,
          keepalive: timeout,
          check_timeout: pos_integer,
          backoff: {pos_integer, pos_integer},
          pool_size: pos_integer,
          wait_pool_size: pos_integer,
          pubsub: atom,
          transport: {module, term}
        }

  @schema NimbleOptions.new!(
            target: [
              type: :string,
              doc:
                ~S(The gateway as `"host:port"`, `"[ipv6]:port"` or a URL. Default `"127.0.0.1:8061"`. For several gateways use ) <>
                  "`:targets`."
            ],
            targets: [
              type: {:list, :string},
              doc: "Gateways of one fleet. Calls are spread over those that are up."
            ],
            token: [
              type: {:or, [:string, {:fun, 0}, nil]},
              default: nil,
              doc:
                "The bearer token, or a function that returns it and is called before each call. The package never logs " <>
                  "it, but supervisor reports include the arguments of children; a function keeps the token out of them."
            ],
            tls: [
              type: {:or, [:boolean, :keyword_list]},
              default: false,
              doc:
                "`true` for TLS with the system's certificates, or a keyword list for `:ssl`, such as " <>
                  "`[cacertfile: …, certfile: …, keyfile: …]` with a client certificate. Peers are verified by default."
            ],
            insecure: [
              type: :boolean,
              default: false,
              doc: "`true` allows sending a token unencrypted to another host."
            ],
            keepalive: [
              type: :timeout,
              default: 20_000,
              doc: "Milliseconds between checks that a gateway still answers, or `:infinity`."
            ],
            check_timeout: [
              type: :pos_integer,
              default: 2_000,
              doc: "Milliseconds within which a gateway answers such a check, or counts as down."
            ],
            backoff: [
              type: {:custom, __MODULE__, :validate_backoff, []},
              default: {100, 5_000},
              doc: "`{first, longest}` pause between attempts to reach a gateway that is down, in milliseconds."
            ],
            pool_size: [
              type: :pos_integer,
              default: 50,
              doc: "Concurrent calls to one gateway; more wait for their turn."
            ],
            wait_pool_size: [
              type: :pos_integer,
              default: 500,
              doc: "Concurrent calls to one gateway that wait there, such as `await`; they hold up no other call."
            ],
            pubsub: [
              type: :atom,
              default: nil,
              doc:
                "A running `Phoenix.PubSub`: what subscribers of this connection's sessions get is broadcast on " <>
                  "`DSPexFleet.topic/1`, too."
            ],
            transport: [
              type: {:or, [:atom, {:tuple, [:atom, :any]}]},
              default: DSPexFleet.Transport.HTTP,
              doc: "A `DSPexFleet.Transport`, or `{transport, argument}`."
            ]
          )

  @doc false
  # Returns the documentation of the options.
  @spec docs() :: String.t()
  def docs, do: NimbleOptions.docs(@schema)

  @doc false
  # Validates the options, with `config :dspex_fleet` as defaults; raises if one is invalid.
  @spec new!(keyword) :: t
  def new!(given) do
    opts = given |> with_configured() |> NimbleOptions.validate!(@schema)
    targets = targets!(opts)
    guard_token!(opts, targets)

    %__MODULE__{
      targets: targets,
      token: opts[:token],
      ssl: ssl(opts[:tls]),
      keepalive: opts[:keepalive],
      check_timeout: opts[:check_timeout],
      backoff: opts[:backoff],
      pool_size: opts[:pool_size],
      wait_pool_size: opts[:wait_pool_size],
      pubsub: opts[:pubsub],
      transport: transport(opts[:transport])
    }
  end

  defp transport({module, argument}), do: {module, argument}
  defp transport(module), do: {module, nil}

  @doc false
  @spec validate_backoff(term) :: {:ok, {pos_integer, pos_integer}} | {:error, String.t()}
  def validate_backoff({first, longest})
      when is_integer(first) and is_integer(longest) and first > 0 and longest >= first,
      do: {:ok, {first, longest}}

  def validate_backoff(other), do: {:error, "expected :backoff to be {first, longest}; got #{inspect(other)}"}

  # A target that is given replaces configured ones, however each is spelled.
  defp with_configured(given) do
    configured = :dspex_fleet |> Application.get_all_env() |> Keyword.take(Keyword.keys(@schema.schema))
    placed = if given[:target] || given[:targets], do: Keyword.drop(configured, [:target, :targets]), else: configured
    Keyword.merge(placed, given)
  end

  defp targets!(opts) do
    case {opts[:target], opts[:targets]} do
      {nil, nil} -> ["127.0.0.1:8061"]
      {target, nil} -> [target]
      {nil, [_ | _] = targets} -> targets
      {nil, []} -> raise ArgumentError, "expected at least one of :targets"
      {_both, _given} -> raise ArgumentError, ":target and :targets exclude each other"
    end
    |> Enum.map(&Target.parse!(&1, opts[:tls] != false))
    |> Enum.uniq()
  end

  defp ssl(false), do: ssl([])
  defp ssl(true), do: ssl([])

  defp ssl(given) do
    verified = [verify: :verify_peer, depth: 10, customize_hostname_check: [match_fun: &same_name?/2]]
    Keyword.merge(verified, given)
  end

  # Erlang looks for an address among the names of a certificate alone.
  defp same_name?({:dns_id, host} = wanted, {:iPAddress, bytes} = presented) do
    case :inet.parse_address(host) do
      {:ok, address} -> address_bytes(address) == IO.iodata_to_binary(bytes)
      {:error, _name} -> https_name?(wanted, presented)
    end
  end

  defp same_name?(wanted, presented), do: https_name?(wanted, presented)

  defp https_name?(wanted, presented), do: :public_key.pkix_verify_hostname_match_fun(:https).(wanted, presented)

  defp address_bytes(address) do
    size = if tuple_size(address) == 4, do: 8, else: 16
    for part <- Tuple.to_list(address), into: <<>>, do: <<part::size(size)>>
  end

  defp guard_token!(opts, targets) do
    clear = Enum.find(targets, &(&1.scheme == :http and not Target.loopback?(&1)))

    if opts[:token] && clear && not opts[:insecure] do
      raise ArgumentError,
            "a token would travel in clear to #{Target.label(clear)}: set :tls, or insecure: true where the network is trusted"
    end
  end
end
