defmodule DSPexFleet.Console do
  @moduledoc """
  Links into the console, the pages that a gateway serves to browsers: for logs, admin pages and messages to people.

  A link contains no token. Whoever opens it signs in with one, and sees what that may.

      iex> DSPexFleet.Console.session_url("https://fleet.example.com", "shop/eu")
      "https://fleet.example.com/session?name=shop%2Feu"
      iex> DSPexFleet.Console.prediction_url("https://fleet.example.com/", "4f7c")
      "https://fleet.example.com/prediction?id=4f7c"
  """

  alias DSPexFleet.{Handle, Prediction, Session}

  @typedoc "The address at which people reach a gateway, such as `https://fleet.example.com`."
  @type base :: String.t()

  @doc "Returns the address of a session's page: its variables, labels and history."
  @spec session_url(base, Session.t() | String.t()) :: String.t()
  def session_url(base, %Session{id: id}), do: session_url(base, id)
  def session_url(base, id) when is_binary(id), do: url(base, "/session", name: id)

  @doc "Returns the address of a prediction's page: its inputs, outputs, provenance and scores."
  @spec prediction_url(base, Handle.t() | Prediction.t() | String.t()) :: String.t()
  def prediction_url(base, %Handle{id: id}), do: prediction_url(base, id)
  def prediction_url(base, %Prediction{id: id}), do: prediction_url(base, id)
  def prediction_url(base, id) when is_binary(id), do: url(base, "/prediction", id: id)

  defp url(base, path, query) when is_binary(base) do
    String.trim_trailing(base, "/") <> path <> "?" <> URI.encode_query(query)
  end
end
