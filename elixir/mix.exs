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
      description: "Publishes session variables to a DSPy fleet and requests predictions from it.",
      package: package(),
      docs: docs(),
      dialyzer: dialyzer(),
      aliases: aliases()
    ]
  end

  def cli, do: [preferred_envs: ["test.ci": :test]]

  def application do
    [mod: {DSPexFleet.Application, []}, extra_applications: [:logger, :ssl, :public_key]]
  end

  defp elixirc_paths(:test), do: ["lib", "test/support"]
  defp elixirc_paths(_env), do: ["lib"]

  defp package do
    [
      licenses: ["MIT"],
      links: %{"DSPy" => "https://dspy.ai", "snakepit" => "https://github.com/nshkrdotcom/snakepit"},
      files: ~w(lib examples mix.exs README.md CHANGELOG.md LICENSE .formatter.exs)
    ]
  end

  defp docs do
    [
      main: "readme",
      extras: ["README.md", "CHANGELOG.md", "LICENSE"],
      groups_for_modules: [
        Processes: [DSPexFleet.Context, DSPexFleet.Connection],
        Data: [
          DSPexFleet.Error,
          DSPexFleet.Handle,
          DSPexFleet.Prediction,
          DSPexFleet.Revision,
          DSPexFleet.Rollout,
          DSPexFleet.RolloutEvent,
          DSPexFleet.Snapshot,
          DSPexFleet.Token,
          DSPexFleet.Values,
          DSPexFleet.Variable
        ],
        Wire: ~r/^Dspex\.Fleet\.V1/
      ]
    ]
  end

  defp dialyzer do
    [plt_add_apps: [:ex_unit, :mix], flags: [:error_handling, :unmatched_returns], list_unused_filters: true]
  end

  defp aliases do
    [
      lint: ["format --check-formatted", "credo --strict", "dialyzer"],
      "test.ci": ["format --check-formatted", "compile --warnings-as-errors", "test"]
    ]
  end

  defp deps do
    [
      {:grpc, "~> 1.0 and >= 1.0.2"},
      # The HTTP/2 client for grpc, which doesn't depend on one by itself.
      {:gun, "~> 2.4.0"},
      {:protobuf, "~> 0.17"},
      {:telemetry, "~> 1.3"},
      # Requests continue the trace of their caller where the application has it.
      {:opentelemetry_api, "~> 1.4", optional: true},
      # Not in the tests' environment, so that these run without them.
      {:credo, "~> 1.7", only: :dev, runtime: false},
      {:dialyxir, "~> 1.4", only: :dev, runtime: false},
      {:ex_doc, "~> 0.38", only: :dev, runtime: false}
    ]
  end
end
