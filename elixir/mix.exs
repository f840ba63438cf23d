defmodule DSPexFleet.MixProject do
  use Mix.Project

  @version "0.1.0"

  def project do
    [
      app: :dspex_fleet,
      version: @version,
      elixir: "~> 1.18",
      elixirc_paths: elixirc_paths(Mix.env()),
      start_permanent: Mix.env() == :prod,
      deps: deps(),
      description: "Publishes session variables to a DSPy fleet and asks it for predictions.",
      package: [licenses: ["MIT"], links: %{}, files: ~w(lib examples mix.exs README.md .formatter.exs)],
      docs: [main: "readme", extras: ["README.md"], groups_for_modules: [Wire: ~r/^Dspex\.Fleet\.V1/]]
    ]
  end

  def application do
    [extra_applications: [:logger, :ssl, :public_key]]
  end

  defp elixirc_paths(:test), do: ["lib", "test/support"]
  defp elixirc_paths(_env), do: ["lib"]

  defp deps do
    [
      {:grpc, "~> 1.0 and >= 1.0.2"},
      # The HTTP/2 client below grpc, which leaves the choice to its users.
      {:gun, "~> 2.4.0"},
      {:protobuf, "~> 0.17"},
      {:telemetry, "~> 1.3"},
      {:ex_doc, "~> 0.38", only: :dev, runtime: false}
    ]
  end
end
