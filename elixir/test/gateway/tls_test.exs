defmodule DSPexFleet.Gateway.TlsTest do
  use DSPexFleet.GatewayCase, async: true

  alias DSPexFleet.Proxy

  # Needs a gateway with TLS that asks for client certificates at DSPEX_FLEET_TLS_TARGET, and its PEM files.
  @moduletag :tls

  defp tls(name), do: System.fetch_env!("DSPEX_FLEET_TLS_#{name}")
  defp trusted, do: [cacertfile: tls("CA")]
  defp set(ctx), do: Variables.set(ctx, :a, 1, timeout: 1_500)
  defp own, do: [certfile: tls("CERT"), keyfile: tls("KEY")]

  test "a client with a certificate gets in over TLS" do
    ctx = context!(target: tls("TARGET"), tls: trusted() ++ own())
    token = Variables.set!(ctx, :a, 1)
    assert Variables.get!(ctx, :a, at_least: token) == 1
  end

  test "the credential is kept nowhere that shows it" do
    opts = [target: tls("TARGET"), tls: trusted() ++ own(), token: System.get_env("DSPEX_FLEET_TOKEN")]
    connection = start_supervised!({Connection, opts})
    Variables.set!(start_supervised!({Context, connection: connection, session: fresh("elixir")}), :a, 1)
    refute inspect(:sys.get_status(connection), limit: :infinity) =~ tls("KEY")
  end

  test "a client without one doesn't" do
    ctx = context!(target: tls("TARGET"), tls: trusted())
    assert {:error, %Error{reason: reason}} = Variables.set(ctx, :a, 1, timeout: 1_000)
    # Under TLS 1.3 a client learns only after the handshake that it was turned away.
    assert reason in [:gateway_unavailable, :took_too_long]
  end

  test "a certificate of another name or address is no proof" do
    named = context!(target: tls("TARGET"), tls: trusted() ++ own() ++ [server_name_indication: ~c"gateway.example"])
    assert {:error, %Error{reason: :gateway_unavailable}} = set(named)

    elsewhere = start_supervised!({Proxy, {tls("TARGET"), {127, 0, 0, 2}}})
    other = context!(target: Proxy.address(elsewhere), tls: trusted() ++ own())
    # A call's error says why only once the first attempt to connect has failed.
    assert eventually(fn ->
             {:error, %Error{reason: :gateway_unavailable, message: message}} = set(other)
             message =~ "tls_alert"
           end)

    assert Proxy.connections(elsewhere) > 0
  end

  test "a gateway that the client doesn't trust gets no call" do
    ctx = context!(target: tls("TARGET"), tls: [cacerts: []] ++ own())
    assert {:error, %Error{reason: :gateway_unavailable}} = Variables.set(ctx, :a, 1, timeout: 1_000)
  end
end
