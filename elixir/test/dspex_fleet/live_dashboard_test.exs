defmodule DSPexFleet.LiveDashboardTest do
  use ExUnit.Case, async: true

  import Phoenix.ConnTest
  import Phoenix.LiveViewTest

  alias DSPexFleet.{Connection, LiveDashboard, Testing}
  alias DSPexFleet.Testing.Transport

  @endpoint __MODULE__.Endpoint
  @connection __MODULE__.Fleet

  defmodule Router do
    use Phoenix.Router
    import Phoenix.LiveDashboard.Router

    pipeline :browser do
      plug(:fetch_session)
    end

    scope "/" do
      pipe_through(:browser)

      live_dashboard("/dashboard",
        additional_pages: [fleet: {LiveDashboard, connection: DSPexFleet.LiveDashboardTest.Fleet, limit: 2}]
      )
    end
  end

  defmodule Endpoint do
    use Phoenix.Endpoint, otp_app: :dspex_fleet

    @session [store: :cookie, key: "_key", signing_salt: "salt"]
    socket("/live", Phoenix.LiveView.Socket, websocket: [connect_info: [session: @session]])
    plug(Plug.Session, @session)
    plug(Router)
  end

  setup_all do
    secret = String.duplicate("secret", 12)

    Application.put_env(:dspex_fleet, Endpoint,
      secret_key_base: secret,
      live_view: [signing_salt: secret],
      pubsub_server: nil
    )

    start_supervised!(Endpoint)
    :ok
  end

  setup do
    fleet = start_supervised!(Testing)
    start_supervised!({Connection, name: @connection, transport: {Transport, fleet}, target: "127.0.0.1:1"})
    {:ok, fleet: fleet}
  end

  defp session(name, revision, acknowledgements) do
    %{
      "name" => name,
      "token" => "7.#{revision}",
      "authority" => "store",
      "confirmed_at" => "2030-01-01T00:00:00Z",
      "staleness_s" => 1.25,
      "experiments" => [],
      "acknowledgements" =>
        for {process, revision, error} <- acknowledgements do
          %{"process" => process, "token" => "7.#{revision}", "error" => error}
        end
    }
  end

  defp open(query \\ ""), do: build_conn() |> get("/dashboard/fleet" <> query) |> live()
  defp cells(html, table), do: html |> Floki.parse_document!() |> Floki.find("##{table} tbody tr") |> Enum.map(&row/1)
  defp row(row), do: row |> Floki.find("td") |> Enum.map(&(&1 |> Floki.text() |> String.trim()))

  test "the page lists sessions with their tokens, and which process applies what", %{fleet: fleet} do
    support = session("support", 3, [{"w1", 3, ""}, {"w2", 2, ""}, {"w3", 3, "BindingError: no such module"}])

    test = self()

    Testing.stub(fleet, "Sessions.List", fn %{"page_size" => size} ->
      send(test, {:page_size, size})
      {:ok, %{"sessions" => [session("checkout", 1, []), support], "next_page_token" => "more"}}
    end)

    {:ok, page, html} = open()
    assert html =~ "127.0.0.1:1"
    assert_received {:page_size, 2}

    assert cells(html, "fleet-sessions") == [
             ["checkout", "7.1", "store", "1.3 s ago", "", "0 of 0", "0"],
             ["support", "7.3", "store", "1.3 s ago", "", "1 of 3", "1"]
           ]

    assert {:ok, _page, html} = open("?nav=processes")

    assert cells(html, "fleet-processes") == [
             ["w1", "support", "7.3", "applies", ""],
             ["w2", "support", "7.2", "is behind", ""],
             ["w3", "support", "7.3", "refuses", "BindingError: no such module"]
           ]

    {:ok, _page, html} = open("?search=supp&sort_by=refused&sort_dir=desc")
    assert [["support" | _rest]] = cells(html, "fleet-sessions")
    send(page.pid, :refresh)
    assert render(page) =~ "checkout"
  end

  test "a fleet that can't be read is a page that says so, and recovers at the next refresh", %{fleet: fleet} do
    Testing.stub(fleet, "Sessions.List", fn _request -> {:error, :not_granted} end)
    {:ok, page, html} = open()
    assert html =~ "The fleet can&#39;t be read"
    assert cells(html, "fleet-sessions") == []

    Testing.stub(fleet, "Sessions.List", fn _request -> {:ok, %{"sessions" => [], "next_page_token" => ""}} end)
    send(page.pid, :refresh)
    refute render(page) =~ "be read"
  end

  test "a connection that isn't running is a page that says so" do
    stop_supervised!(@connection)
    {:ok, _page, html} = open()
    assert html =~ "is not running"
  end

  test "options that can't be are refused when the router is compiled" do
    assert_raise ArgumentError, fn -> LiveDashboard.init(nonsense: true) end
    assert {:ok, %{limit: 1_000}, process: DSPexFleet.Supervisor} = LiveDashboard.init(connection: @connection)
    assert {:disabled, "DSPex Fleet"} = LiveDashboard.menu_link(%{}, %{processes: []})
    assert is_boolean(Connection.connected?(@connection))
  end
end
