defmodule DSPexFleet.MixProject do
  use Mix.Project

  @version "0.2.0"
  # Where the sources of a release are; a checkout may have come from anywhere.
  @source_url System.get_env("DSPEX_FLEET_SOURCE_URL")

  def project do
    [
      app: :dspex_fleet,
      version: @version,
      elixir: "~> 1.18",
      elixirc_paths: elixirc_paths(Mix.env()),
      start_permanent: Mix.env() == :prod,
      deps: deps(),
      name: "DSPexFleet",
      source_url: @source_url,
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

  defp elixirc_paths(:test), do: ["lib", "test/support", "examples"]
  defp elixirc_paths(_env), do: ["lib"]

  defp package do
    [
      licenses: ["MIT"],
      links:
        Map.merge(source_link(), %{"DSPy" => "https://dspy.ai", "snakepit" => "https://github.com/nshkrdotcom/snakepit"}),
      files: ~w(lib examples mix.exs README.md CHANGELOG.md LICENSE .formatter.exs)
    ]
  end

  defp source_link, do: if(@source_url, do: %{"Source" => @source_url}, else: %{})

  defp docs do
    [
      main: "readme",
      source_ref: "v#{@version}",
      extras: ["README.md", "CHANGELOG.md", "LICENSE"],
      groups_for_modules: [
        Sessions: [
          DSPexFleet.Session,
          DSPexFleet.Context,
          DSPexFleet.Connection,
          DSPexFleet.Replica,
          DSPexFleet.Producer
        ],
        Operations: [
          DSPexFleet,
          DSPexFleet.Variables,
          DSPexFleet.Sessions,
          DSPexFleet.Programs,
          DSPexFleet.Predictions,
          DSPexFleet.Scores,
          DSPexFleet.Judges,
          DSPexFleet.Approvals,
          DSPexFleet.Audit,
          DSPexFleet.DeadLetters,
          DSPexFleet.Protections,
          DSPexFleet.Status,
          DSPexFleet.Costs,
          DSPexFleet.Rollout,
          DSPexFleet.Experiment,
          DSPexFleet.Assignment
        ],
        Learning: [
          DSPexFleet.Datasets,
          DSPexFleet.Recorders,
          DSPexFleet.Evaluations,
          DSPexFleet.Optimizations,
          DSPexFleet.Jobs,
          DSPexFleet.Job
        ],
        Testing: [DSPexFleet.Testing],
        Operators: [DSPexFleet.Console, DSPexFleet.LiveDashboard],
        Transport: [~r/^DSPexFleet\.Transport/, DSPexFleet.Connection.Options, DSPexFleet.Connection.Target]
      ]
    ]
  end

  defp dialyzer do
    [
      plt_add_apps: [:ex_unit, :mix],
      flags: [:error_handling, :unmatched_returns],
      ignore_warnings: ".dialyzer_ignore.exs"
    ]
  end

  defp aliases do
    [
      lint: ["format --check-formatted", "credo --strict", "dialyzer"],
      "test.ci": ["format --check-formatted", "compile --warnings-as-errors", "test"]
    ]
  end

  defp deps do
    [
      {:mint, "~> 1.5"},
      {:nimble_pool, "~> 1.0"},
      {:nimble_options, "~> 1.0"},
      {:telemetry, "~> 1.0"},
      # Snapshots are broadcast, and requests continue the trace of their caller, where the application has them.
      {:phoenix_pubsub, "~> 2.0", optional: true},
      {:opentelemetry_api, "~> 1.0", optional: true},
      # Its page for the fleet is compiled where the application has the dashboard.
      {:phoenix_live_dashboard, "~> 0.8", optional: true},
      # The examples, which the tests run.
      {:oban, "~> 2.18", only: :test},
      {:postgrex, "~> 0.20", only: :test},
      {:broadway, "~> 1.1", only: :test},
      {:floki, "~> 0.36", only: :test},
      {:jason, "~> 1.4", only: [:dev, :test]},
      # Not in the tests' environment, so that these run without them.
      {:credo, "~> 1.7", only: :dev, runtime: false},
      {:dialyxir, "~> 1.4", only: :dev, runtime: false},
      {:ex_doc, "~> 0.38", only: :dev, runtime: false}
    ]
  end
end
