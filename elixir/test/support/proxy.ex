defmodule DSPexFleet.Proxy do
  @moduledoc "A TCP relay on loopback that can break its connections, or swallow everything like a dead network."

  use GenServer

  def start_link({target, ip}), do: GenServer.start_link(__MODULE__, {target, ip})
  def start_link(target), do: start_link({target, {127, 0, 0, 1}})
  def address(proxy), do: GenServer.call(proxy, :address)

  @doc "Breaks all connections; `refuse: true` takes no new ones until `open/1`."
  def cut(proxy, opts \\ []), do: GenServer.call(proxy, {:cut, Keyword.get(opts, :refuse, false)})
  def open(proxy), do: GenServer.call(proxy, :open)

  @doc "From now on nothing passes on the connections that are there, and nobody is told."
  def swallow(proxy), do: GenServer.call(proxy, :swallow)

  @doc "Whether connections, new ones too, are open and pass nothing, like those of a process that is stopped."
  def freeze(proxy, frozen), do: GenServer.call(proxy, {:freeze, frozen})

  @doc "How many connections are open now."
  def open_connections(proxy), do: GenServer.call(proxy, :open_connections)

  @doc "How many connections were made so far."
  def connections(proxy), do: GenServer.call(proxy, :connections)

  @impl true
  def init({target, ip}) do
    [host, port] = String.split(target, ":")
    {:ok, listening} = :gen_tcp.listen(0, [:binary, active: false, reuseaddr: true, ip: ip, backlog: 1_024])
    {:ok, port_here} = :inet.port(listening)
    proxy = self()
    spawn_link(fn -> accept(listening, proxy) end)
    to = {String.to_charlist(host), String.to_integer(port)}
    {:ok, %{address: "#{:inet.ntoa(ip)}:#{port_here}", to: to, pairs: %{}, refuse: false, frozen: false, count: 0}}
  end

  @impl true
  def handle_call(:address, _from, state), do: {:reply, state.address, state}
  def handle_call(:connections, _from, state), do: {:reply, state.count, state}
  def handle_call(:open_connections, _from, state), do: {:reply, div(map_size(state.pairs), 2), state}

  def handle_call({:freeze, true}, _from, state),
    do: {:reply, :ok, %{state | frozen: true, pairs: Map.new(state.pairs, &swallowed/1)}}

  def handle_call({:freeze, false}, _from, state), do: {:reply, :ok, %{state | frozen: false}}
  def handle_call(:open, _from, state), do: {:reply, :ok, %{state | refuse: false}}
  def handle_call(:swallow, _from, state), do: {:reply, :ok, %{state | pairs: Map.new(state.pairs, &swallowed/1)}}

  def handle_call({:cut, refuse}, _from, state) do
    Enum.each(Map.keys(state.pairs), &:gen_tcp.close/1)
    {:reply, :ok, %{state | pairs: %{}, refuse: refuse}}
  end

  @impl true
  def handle_info({:accepted, socket}, %{refuse: true} = state) do
    :gen_tcp.close(socket)
    {:noreply, state}
  end

  def handle_info({:accepted, client}, %{to: {host, port}} = state) do
    case :gen_tcp.connect(host, port, [:binary, active: true]) do
      {:ok, server} ->
        :inet.setopts(client, active: true)
        pairs = Map.merge(state.pairs, %{client => passing(server, state), server => passing(client, state)})
        {:noreply, %{state | pairs: pairs, count: state.count + 1}}

      {:error, _refused} ->
        :gen_tcp.close(client)
        {:noreply, state}
    end
  end

  def handle_info({:tcp, socket, data}, state) do
    case state.pairs do
      %{^socket => :nowhere} -> :ok
      %{^socket => other} -> :gen_tcp.send(other, data)
      %{} -> :ok
    end

    {:noreply, state}
  end

  def handle_info({:tcp_closed, socket}, state) do
    {other, pairs} = Map.pop(state.pairs, socket)
    if is_port(other), do: :gen_tcp.close(other)
    {:noreply, %{state | pairs: Map.delete(pairs, other)}}
  end

  def handle_info({:tcp_error, _socket, _reason}, state), do: {:noreply, state}

  defp passing(_socket, %{frozen: true}), do: :nowhere
  defp passing(socket, _state), do: socket

  defp swallowed({socket, _other}), do: {socket, :nowhere}

  defp accept(listening, proxy) do
    {:ok, socket} = :gen_tcp.accept(listening)
    :ok = :gen_tcp.controlling_process(socket, proxy)
    send(proxy, {:accepted, socket})
    accept(listening, proxy)
  end
end
