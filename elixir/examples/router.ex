defmodule MyAppWeb.Router do
  use Phoenix.Router

  import Phoenix.LiveDashboard.Router

  pipeline :operators do
    plug(:fetch_session)
    plug(:protect_from_forgery)
    # And whatever lets nobody else in.
  end

  scope "/" do
    pipe_through(:operators)

    live_dashboard("/dashboard",
      metrics: MyApp.Metrics,
      additional_pages: [fleet: {DSPexFleet.LiveDashboard, connection: MyApp.Fleet}]
    )
  end
end
