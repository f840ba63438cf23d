if Code.ensure_loaded?(Phoenix.LiveDashboard.PageBuilder) do
  defmodule DSPexFleet.LiveDashboard do
    @moduledoc """
    A page of `Phoenix.LiveDashboard`: the fleet's gateways, its sessions with their tokens, and which worker process applies
    which revision of them, or why it can't.

        live_dashboard "/dashboard", additional_pages: [fleet: {DSPexFleet.LiveDashboard, connection: MyApp.Fleet}]

    Options:

      * `:connection` – the name of a running `DSPexFleet.Connection`, whose token has the scope `read`.
      * `:limit` – the most sessions that are read each time, 1,000 by default.

    The module exists where the application has `phoenix_live_dashboard`.
    """

    use Phoenix.LiveDashboard.PageBuilder

    alias DSPexFleet.{Connection, Error, Session, Sessions, Token}

    @title "DSPex Fleet"

    @impl true
    def init(opts) do
      opts = opts |> Keyword.validate!([:connection, limit: 1_000]) |> Map.new()
      {:ok, opts, process: DSPexFleet.Supervisor}
    end

    @impl true
    def menu_link(_opts, capabilities) do
      if DSPexFleet.Supervisor in capabilities.processes, do: {:ok, @title}, else: {:disabled, @title}
    end

    @impl true
    def mount(_params, opts, socket), do: {:ok, socket |> assign(:opts, opts) |> read_fleet()}

    @impl true
    def handle_refresh(socket), do: {:noreply, read_fleet(socket)}

    @impl true
    def render(assigns) do
      ~H"""
      <.fields_card title="Gateways" fields={@gateways} />
      <.card :if={@error} title="The fleet can't be read" dom_id="fleet-error"><%= @error %></.card>
      <.live_nav_bar id="fleet" page={@page}>
        <:item name="sessions" label="Sessions">
          <.live_table
            id="fleet-sessions"
            dom_id="fleet-sessions"
            page={@page}
            title="Sessions"
            row_fetcher={fn params, _node -> fetch(session_rows(@sessions), params) end}
          >
            <:col field={:name} sortable={:asc} />
            <:col field={:token} />
            <:col field={:authority} sortable={:asc} />
            <:col :let={row} field={:staleness_s} header="Confirmed" sortable={:desc} text_align="right">
              <%= seconds(row.staleness_s) %>
            </:col>
            <:col field={:rollout} />
            <:col field={:applied} header="Processes that apply it" text_align="right" />
            <:col field={:refused} sortable={:desc} text_align="right" />
          </.live_table>
        </:item>
        <:item name="processes" label="Who applies what">
          <.live_table
            id="fleet-processes"
            dom_id="fleet-processes"
            page={@page}
            title="Worker processes"
            row_fetcher={fn params, _node -> fetch(process_rows(@sessions), params) end}
          >
            <:col field={:process} sortable={:asc} />
            <:col field={:session} sortable={:asc} />
            <:col field={:token} />
            <:col field={:state} sortable={:asc} />
            <:col field={:error} />
          </.live_table>
        </:item>
      </.live_nav_bar>
      """
    end

    defp read_fleet(socket) do
      %{opts: %{connection: connection, limit: limit}, page: page} = socket.assigns

      case on_node(page.node, fn -> {Connection.gateways(connection), list(connection, limit)} end) do
        {{:ok, gateways}, {:ok, sessions}} -> assign(socket, gateways: gateways, sessions: sessions, error: nil)
        {{:ok, gateways}, {:error, error}} -> unread(socket, gateways, error)
        {{:error, error}, _sessions} -> unread(socket, [], error)
      end
    end

    defp unread(socket, gateways, error) do
      assign(socket, gateways: gateways, sessions: [], error: Error.message(error))
    end

    # A connection is a process of the node that the dashboard shows.
    defp on_node(node, fun) when node == node(), do: fun.()
    defp on_node(node, fun), do: :erpc.call(node, fun)

    defp list(connection, limit) do
      "dashboard" |> Session.new(connection: connection) |> Sessions.list(limit: limit)
    end

    defp session_rows(sessions) do
      for session <- sessions do
        states = Enum.map(session.acknowledgements, &state(&1, session))

        %{
          name: session.name,
          token: to_string(session.token),
          authority: session.authority,
          staleness_s: session.staleness_s,
          rollout: rollout(session.rollout),
          applied: "#{Enum.count(states, &(&1 == "applies"))} of #{length(states)}",
          refused: Enum.count(states, &(&1 == "refuses"))
        }
      end
    end

    defp process_rows(sessions) do
      for session <- sessions, acknowledgement <- session.acknowledgements do
        %{
          process: acknowledgement.process,
          session: session.name,
          token: to_string(acknowledgement.token),
          state: state(acknowledgement, session),
          error: acknowledgement.error
        }
      end
    end

    defp state(%{error: error}, _session) when error != "", do: "refuses"

    defp state(%{token: token}, session) do
      if Token.compare(token, session.token) == :lt, do: "is behind", else: "applies"
    end

    defp rollout(nil), do: ""
    defp rollout(rollout), do: "#{rollout.state}, stage #{rollout.stage}, #{round(rollout.share * 100)} %"

    defp fetch(rows, %{search: search, sort_by: sort_by, sort_dir: direction, limit: limit}) do
      found = Enum.filter(rows, &(search in [nil, ""] or shows?(&1, search)))
      {found |> Enum.sort_by(& &1[sort_by], direction) |> Enum.take(limit), length(found)}
    end

    defp shows?(row, search) do
      Enum.any?(row, fn {_column, value} -> is_binary(value) and String.contains?(value, search) end)
    end

    defp seconds(seconds), do: "#{Float.round(seconds / 1, 1)} s ago"
  end
end
