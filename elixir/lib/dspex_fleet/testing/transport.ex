defmodule DSPexFleet.Testing.Transport do
  @moduledoc false
  # The transport of `DSPexFleet.Testing`: the gateway is a process of the test's own node.

  @behaviour DSPexFleet.Transport

  alias DSPexFleet.Error
  alias DSPexFleet.Testing.Gateway

  @silence_ms 100

  @impl true
  def open(_target, %{transport: {__MODULE__, fleet}}), do: fleet

  @impl true
  def check(fleet, _timeout), do: if(Process.alive?(fleet), do: :ok, else: {:error, gone()})

  @impl true
  def request(fleet, operation, message, opts) do
    plain = message |> JSON.encode!() |> JSON.decode!()

    case Gateway.request(fleet, operation, plain, opts[:timeout]) do
      {:ok, answer} -> {:ok, answer |> JSON.encode!() |> JSON.decode!()}
      {:error, %Error{} = error} -> {:error, error}
      {:error, reason} -> {:error, Error.new(reason, "the test's fleet was told to answer #{operation} so")}
    end
  catch
    :exit, _reason -> {:down, gone()}
  end

  @impl true
  def stream(fleet, operation, message, opts) do
    Stream.resource(
      fn -> open_stream(fleet, operation, message) end,
      &next(&1, opts[:usable?]),
      fn _state -> :ok end
    )
  end

  defp open_stream(fleet, operation, message) do
    {:open, Gateway.subscribe(fleet, operation, message)}
  catch
    :exit, _reason -> :gone
  end

  defp next(:gone, _usable?), do: {[{:down, gone()}], :ended}
  defp next(:ended, _usable?), do: {:halt, :ended}
  defp next({:open, subscription}, _usable?), do: {[:open], subscription}

  defp next(subscription, usable?) do
    receive do
      {^subscription, :message, answer} -> {[{:ok, answer |> JSON.encode!() |> JSON.decode!()}], subscription}
      {^subscription, :end} -> {:halt, subscription}
      {:DOWN, ^subscription, :process, _pid, _reason} -> {:halt, subscription}
    after
      @silence_ms -> if usable?.(), do: {[], subscription}, else: {:halt, subscription}
    end
  end

  defp gone, do: Error.new(:gateway_unavailable, "the test's fleet has ended", status: :unavailable)
end
