defmodule DSPexFleet.Connection.Target do
  @moduledoc """
  The address of one gateway, as a `DSPexFleet.Transport` gets it: `:scheme` (`:http` or `:https`), `:host`, `:port`, and the `:path` that
  its operations' paths follow.
  """

  @enforce_keys [:scheme, :host, :port]
  defstruct [:scheme, :host, :port, path: ""]

  @type t :: %__MODULE__{scheme: :http | :https, host: String.t(), port: :inet.port_number(), path: String.t()}

  @address ~r/\A(?:\[([0-9a-fA-F:.]+)\]|([\w.-]+)):(\d{1,5})\z/

  @doc false
  # Parses `host:port`, `[ipv6]:port` or a URL; raises `ArgumentError` if it is neither.
  @spec parse!(String.t(), tls :: boolean) :: t
  def parse!(text, tls) when is_binary(text) do
    case Regex.run(@address, text) do
      [_, "", host, port] -> new!(text, default_scheme(tls), host, String.to_integer(port), "")
      [_, host, "", port] -> new!(text, default_scheme(tls), host, String.to_integer(port), "")
      nil -> text |> URI.new() |> from_uri!(text, tls)
    end
  end

  def parse!(other, _tls), do: refuse!(other)

  @doc "Returns the address as it is shown in errors and telemetry."
  @spec label(t) :: String.t()
  def label(%__MODULE__{} = target) do
    host = if target.host =~ ":", do: "[#{target.host}]", else: target.host
    "#{target.scheme}://#{host}:#{target.port}#{target.path}"
  end

  @doc false
  # Returns true if the target is on this machine.
  @spec loopback?(t) :: boolean
  def loopback?(%__MODULE__{host: host}), do: host == "localhost" or host == "::1" or host =~ ~r/\A127\.\d+\.\d+\.\d+\z/

  defp default_scheme(true), do: :https
  defp default_scheme(false), do: :http

  defp from_uri!({:ok, %URI{scheme: "http"}}, text, true),
    do: raise(ArgumentError, "#{inspect(text)} is unencrypted, but :tls is set: use https://, or host:port")

  defp from_uri!({:ok, %URI{scheme: scheme, host: host, port: port, query: nil, userinfo: nil} = uri}, text, _tls)
       when scheme in ["http", "https"] and is_binary(host) and host != "" do
    new!(text, if(scheme == "https", do: :https, else: :http), host, port, String.trim_trailing(uri.path || "", "/"))
  end

  defp from_uri!(_other, text, _tls), do: refuse!(text)

  defp new!(_text, scheme, host, port, path) when port in 1..65_535,
    do: %__MODULE__{scheme: scheme, host: host, port: port, path: path}

  defp new!(text, _scheme, _host, _port, _path), do: refuse!(text)

  @spec refuse!(term) :: no_return
  defp refuse!(other) do
    raise ArgumentError, "expected a target of host:port, [ipv6]:port, http://… or https://…; got #{inspect(other)}"
  end
end
