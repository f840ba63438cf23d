# Tests that need something which isn't there are left out: a gateway at DSPEX_FLEET_TARGET, one that asks for tokens
# (DSPEX_FLEET_READER is one that may only read, and DSPEX_FLEET_APPROVER one that approves too), one with TLS at
# DSPEX_FLEET_TLS_TARGET, a command that starts one in DSPEX_FLEET_GATEWAY.
needs = [
  gateway: "DSPEX_FLEET_TARGET",
  tokens: "DSPEX_FLEET_READER",
  approvals: "DSPEX_FLEET_APPROVER",
  tls: "DSPEX_FLEET_TLS_TARGET",
  gateways: "DSPEX_FLEET_GATEWAY"
]

# The packages below say a lot of the connections that these tests break.
Logger.configure(level: :error)

ExUnit.start(
  exclude: for({tag, name} <- needs, System.get_env(name) == nil, do: tag),
  capture_log: true,
  assert_receive_timeout: 10_000
)
