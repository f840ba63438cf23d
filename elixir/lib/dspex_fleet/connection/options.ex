defmodule DSPexFleet.Connection.Options do
  @moduledoc false

  @derive {Inspect, except: [:token, :credential]}
  @enforce_keys [:target, :token, :credential, :keepalive, :backoff]
  defstruct @enforce_keys

  @type t :: %__MODULE__{}

  @defaults [
    target: "127.0.0.1:50061",
    token: nil,
    tls: false,
    insecure: false,
    keepalive: 20_000,
    backoff: {100, 5_000}
  ]

  @doc "Validates the options, with `config :dspex_fleet` as defaults; raises `ArgumentError` if one is invalid."
  @spec new!(keyword) :: t
  def new!(given) do
    configured = :dspex_fleet |> Application.get_all_env() |> Keyword.take(Keyword.keys(@defaults))
    opts = Keyword.validate!(given, Keyword.merge(@defaults, configured))
    guard_token!(opts)

    %__MODULE__{
      target: target!(opts[:target]),
      token: token!(opts[:token]),
      credential: credential(opts[:tls], opts[:target]),
      keepalive: opts[:keepalive],
      backoff: backoff!(opts[:backoff])
    }
  end

  # The gRPC package reads "localhost:1" as a URI of the scheme "localhost".
  defp target!(target) do
    cond do
      target =~ ~r/\A[\w.-]+:\d+\z/ -> "ipv4:" <> target
      target =~ ~r/\A\[[0-9a-fA-F:]+\]:\d+\z/ -> "ipv6:" <> target
      target =~ ~r/\A[a-z0-9]+:/ -> target
      true -> raise ArgumentError, "expected :target to be host:port, [ipv6]:port or scheme:…; got #{inspect(target)}"
    end
  end

  defp token!(token) when is_nil(token) or is_binary(token) or is_function(token, 0), do: token
  defp token!(_other), do: raise(ArgumentError, "expected :token to be a string or a function that returns one")

  defp backoff!({base, cap}) when is_integer(base) and is_integer(cap) and base > 0 and cap >= base, do: {base, cap}
  defp backoff!(other), do: raise(ArgumentError, "expected :backoff to be {first, longest}; got #{inspect(other)}")

  defp credential(false, _target), do: nil
  defp credential(true, target), do: credential([], target)

  defp credential(given, target) when is_list(given) do
    verified = [verify: :verify_peer, depth: 10, customize_hostname_check: hostname_check()]
    roots = if given[:cacertfile] || given[:cacerts], do: [], else: [cacerts: :public_key.cacerts_get()]
    GRPC.Credential.new(ssl: (verified ++ address(target)) |> Keyword.merge(roots) |> Keyword.merge(given))
  end

  # Where the peer is an address, Gun asks for no name in its certificate: it could be any that the authority issued.
  defp address(target) do
    host =
      target
      |> String.replace(~r/\A(ipv[46]:)?(.+):\d+\z/, "\\2")
      |> String.trim_leading("[")
      |> String.trim_trailing("]")

    case host |> String.to_charlist() |> :inet.parse_address() do
      {:ok, _address} -> [server_name_indication: String.to_charlist(host)]
      {:error, _name} -> []
    end
  end

  defp hostname_check do
    https = :public_key.pkix_verify_hostname_match_fun(:https)
    [match_fun: fn wanted, presented -> same_address(wanted, presented) || https.(wanted, presented) end]
  end

  # Erlang looks for an address among the names of a certificate alone.
  defp same_address({:dns_id, host}, {:iPAddress, bytes}) do
    case :inet.parse_address(host) do
      {:ok, address} -> address_bytes(address) == IO.iodata_to_binary(bytes)
      {:error, _name} -> false
    end
  end

  defp same_address(_wanted, _presented), do: false

  defp address_bytes(address) do
    size = if tuple_size(address) == 4, do: 8, else: 16
    for part <- Tuple.to_list(address), into: <<>>, do: <<part::size(size)>>
  end

  defp guard_token!(opts) do
    if opts[:token] && opts[:tls] == false && not opts[:insecure] && not loopback?(opts[:target]) do
      raise ArgumentError,
            "a token would travel in clear to #{opts[:target]}: set :tls, or insecure: true where the network is trusted"
    end
  end

  defp loopback?(target),
    do: target =~ ~r/\A(ipv[46]:)?(localhost|127\.\d+\.\d+\.\d+|\[::1\]):\d+\z/ or target =~ ~r/\Aunix:/
end
