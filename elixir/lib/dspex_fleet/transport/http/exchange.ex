defmodule DSPexFleet.Transport.HTTP.Exchange do
  @moduledoc false
  # One HTTP request on a connection of its own, and the reading of its response by the process that sent it.
  # Connections are passive, so that no message of theirs is ever in a mailbox, and end with the process that opened
  # them.

  alias DSPexFleet.Connection.Target
  alias DSPexFleet.Error

  @connect_ms 5_000
  # Refused at once or not at all: a connection that isn't there after this long won't come.
  @hopeless_ms 1_000
  @silence_ms 1_000

  @enforce_keys [:conn, :ref, :usable?]
  defstruct [:conn, :ref, :usable?, status: nil]

  @type t :: %__MODULE__{}
  @type request :: {method :: String.t(), path :: String.t(), [{String.t(), String.t()}], iodata | nil}

  @doc "Connects to a target; a failure that says that it is down is `{:down, error}`."
  @spec connect(Target.t(), keyword, timeout) :: {:ok, Mint.HTTP1.t()} | {:error | :down, Error.t()}
  def connect(target, ssl, timeout) do
    within = min(timeout, @connect_ms)
    transport_opts = [timeout: within] ++ if(target.scheme == :https, do: named(ssl, target.host), else: [])
    opts = [mode: :passive, transport_opts: transport_opts]

    case Mint.HTTP1.connect(target.scheme, target.host, target.port, opts) do
      {:ok, conn} -> {:ok, conn}
      {:error, %{reason: :timeout}} when within < @hopeless_ms -> {:error, unavailable(target, "it took too long")}
      {:error, reason} -> {:down, unavailable(target, Exception.message(reason) <> " (#{inspect(reason.reason)})")}
    end
  end

  @doc "Closes a connection, if there is one."
  @spec close(Mint.HTTP1.t() | nil) :: :ok
  def close(nil), do: :ok

  def close(conn) do
    {:ok, _closed} = Mint.HTTP1.close(conn)
    :ok
  end

  @doc "Returns whether an idle connection can still be used: nothing was received on it, and it isn't closed."
  @spec idle?(Mint.HTTP1.t()) :: boolean
  def idle?(conn), do: Mint.HTTP1.open?(conn) and receive_data(conn, 0) == :timeout

  @doc "Sends a request. `usable?` is asked while nothing is received, and ends the exchange when it returns false."
  @spec send_request(Mint.HTTP1.t(), Target.t(), request, (-> boolean)) :: {:ok, t} | {:closed, term}
  def send_request(conn, target, {method, path, headers, body}, usable?) do
    headers = if body, do: [{"content-type", "application/json"} | headers], else: headers

    case Mint.HTTP1.request(conn, method, target.path <> path, headers, body) do
      {:ok, conn, ref} -> {:ok, %__MODULE__{conn: conn, ref: ref, usable?: usable?}}
      {:error, conn, reason} -> with(:ok <- close(conn), do: {:closed, reason})
    end
  end

  @doc "Returns what is received next, `{:data, binary}` or `:done`, or `{:idle, exchange}` after a second of silence."
  @spec receive_next(t, timeout) :: {[term], t} | {:idle, t} | {:closed, term} | :unusable
  def receive_next(%__MODULE__{} = exchange, timeout) do
    case receive_data(exchange.conn, min(timeout, @silence_ms)) do
      {:ok, conn, responses} -> parts(responses, %{exchange | conn: conn})
      {:error, conn, reason, responses} -> closed(conn, reason, responses, exchange)
      :timeout -> if exchange.usable?.(), do: {:idle, exchange}, else: :unusable
    end
  end

  @doc "Returns the status and body of a response that arrives before `deadline`, in milliseconds of monotonic time."
  @spec read_response(t, timeout) ::
          {:ok, pos_integer, binary, Mint.HTTP1.t()} | {:closed, term} | :unusable | :timeout
  def read_response(exchange, deadline), do: read_response(exchange, deadline, [])

  defp read_response(exchange, deadline, body) do
    case receive_next(exchange, remaining(deadline)) do
      {parts, exchange} when is_list(parts) -> collect(parts, exchange, deadline, body)
      {:idle, exchange} -> if remaining(deadline) == 0, do: :timeout, else: read_response(exchange, deadline, body)
      ended -> ended
    end
  end

  defp collect(parts, exchange, deadline, body) do
    data = for {:data, data} <- parts, do: data
    body = [body | data]

    if :done in parts,
      do: {:ok, exchange.status, IO.iodata_to_binary(body), exchange.conn},
      else: read_response(exchange, deadline, body)
  end

  # Mint's own `recv/3` closes a connection on which nothing is received in time. This one leaves it as it is, and gives
  # Mint the message that an active socket would have sent.
  defp receive_data(conn, timeout) do
    socket = Mint.HTTP1.get_socket(conn)

    {module, tags} =
      if is_tuple(socket),
        do: {:ssl, {:ssl, :ssl_closed, :ssl_error}},
        else: {:gen_tcp, {:tcp, :tcp_closed, :tcp_error}}

    case module.recv(socket, 0, timeout) do
      {:ok, data} -> Mint.HTTP1.stream(conn, {elem(tags, 0), socket, data})
      {:error, :timeout} -> :timeout
      {:error, :closed} -> Mint.HTTP1.stream(conn, {elem(tags, 1), socket})
      {:error, reason} -> Mint.HTTP1.stream(conn, {elem(tags, 2), socket, reason})
    end
  end

  # The response may be complete although the connection has ended behind it.
  defp closed(conn, reason, responses, exchange) do
    case parts(responses, %{exchange | conn: conn}) do
      {[_ | _], _exchange} = received -> received
      _nothing -> {:closed, reason}
    end
  end

  defp parts(responses, exchange) do
    Enum.reduce(responses, {[], exchange}, fn
      {:status, _ref, status}, {parts, exchange} -> {parts, %{exchange | status: status}}
      {:headers, _ref, _headers}, so_far -> so_far
      {:data, _ref, data}, {parts, exchange} -> {parts ++ [{:data, data}], exchange}
      {:done, _ref}, {parts, exchange} -> {parts ++ [:done], exchange}
      {:error, _ref, _reason}, so_far -> so_far
    end)
  end

  # Where the peer is an address, its certificate has to name that address.
  defp named(ssl, host), do: Keyword.put_new(ssl, :server_name_indication, String.to_charlist(host))

  defp unavailable(target, why) do
    Error.new(
      :gateway_unavailable,
      "no connection to #{Target.label(target)}: #{why}. Reconnecting continues; check that the gateway runs there.",
      status: :unavailable
    )
  end

  defp remaining(:infinity), do: :infinity
  defp remaining(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)
end
