defmodule DSPexFleet.Transport do
  @moduledoc """
  How requests reach a gateway. `DSPexFleet.Transport.HTTP` is the default, and `DSPexFleet.Testing` has one for tests.

  An operation is a method of the gateway by its name, such as `"Variables.Publish"`, and a message is its request or
  response as a map with the fields' names as keys. Parts of a request may be `DSPexFleet.Transport.Encoded`: text that is
  JSON already.

  The options of calls and streams are `:headers` (a list of pairs of strings) and `:usable?` (a function that returns false
  once the gateway is known to be down, so that nobody waits for it any longer); calls have `:timeout` in milliseconds,
  `:waits?`, whether the call waits on the gateway, such as for a prediction's end, and `:age`, a number that grows when the
  gateway goes down, whose older connections are then of no use.

  Failures are `{:error, error}`, or `{:down, error}` if the gateway can't be reached or no longer serves, so that the
  request goes to another one.
  """

  alias DSPexFleet.Connection.{Options, Target}
  alias DSPexFleet.Error

  @type gateway :: term
  @type message :: %{String.t() => term}
  @type failure :: {:error | :down, Error.t()}

  @doc """
  Prepares calls to a target; runs in the connection's process, which its processes are linked to.

  The argument of a transport is in the options, whose `:transport` is `{transport, argument}`.
  """
  @callback open(Target.t(), Options.t()) :: gateway

  @doc "Checks within a timeout that a gateway answers."
  @callback check(gateway, timeout) :: :ok | {:error, Error.t()}

  @doc "Sends a request and returns the response."
  @callback request(gateway, operation :: String.t(), message, keyword) :: {:ok, message} | failure

  @doc """
  Returns the messages of a stream: `:open` once the gateway has accepted it, then `{:ok, message}` or a failure.

  It is opened when it is enumerated, by the process that enumerates it, and closed with that process or the enumeration,
  without effect on any other call or stream.
  """
  @callback stream(gateway, operation :: String.t(), message, keyword) :: Enumerable.t(:open | {:ok, message} | failure)
end
