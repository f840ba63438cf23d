"""The gateway as a process: its command, TLS and client certificates, health, reflection, and how it stops."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from redis.asyncio import Redis

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.process.aio import OutageLog, every
from snakepit_bridge.testing.elixir.server import BridgeServer
from tests.harness.preloaded import PreloadedPopen, run_preloaded
from tests.harness.waiting import PATIENCE_S, Stopwatch, eventually
from tests.integration.gateway_clients import Client, connected, first, gateway, grants, http, refusal
from workers.dev.redis_server import EmbeddedRedis
from workers.gateway import Gateway, GatewaySettings, Grants, Tls

ROOT = Path(__file__).parents[2]
LOG = logging.getLogger(__name__)


class Files:
    """A certificate authority's files."""

    def __init__(self, folder: Path) -> None:
        ca, clients = trustme.CA(), trustme.CA()
        issued = ca.issue_cert("localhost", "127.0.0.1")
        self.ca, self.certificate, self.key = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
        self.client_ca, self.client, self.client_key = folder / "cca.pem", folder / "client.pem", folder / "ckey.pem"
        ca.cert_pem.write_to_path(str(self.ca))
        clients.cert_pem.write_to_path(str(self.client_ca))
        for who, certificate, key in (
            (issued, self.certificate, self.key),
            (clients.issue_cert("client@elixir"), self.client, self.client_key),
        ):
            key.write_bytes(who.private_key_pem.bytes())
            certificate.write_bytes(b"".join(part.bytes() for part in who.cert_chain_pems))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


def trusting(files: Files, *, with_client: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(files.ca))
    if with_client:
        context.load_cert_chain(files.client, files.client_key)
    return context


def channel(served: Gateway, files: Files, *, with_client: bool = False) -> grpc.aio.Channel:
    client = (files.client_key.read_bytes(), files.client.read_bytes()) if with_client else (None, None)
    credentials = grpc.ssl_channel_credentials(files.ca.read_bytes(), *client)
    return grpc.aio.secure_channel(str(served.grpc_address), credentials)


async def get(client: httpx.AsyncClient) -> int:
    return (await client.get("/v1/sessions/user-1/variables")).status_code


async def test_tls_serves_clients_that_trust_it_and_no_plain_text(redis_url: str, files: Files) -> None:
    tls = Tls(files.certificate, files.key)
    async with gateway(redis_url, grants=grants(), tls=tls) as served:
        async with channel(served, files) as secured:
            await Client(secured).publish("user-1", a=1)
        async with connected(served.grpc_address) as plain:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await plain.get("user-1")
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        bearer = {"authorization": "Bearer reader"}
        url = f"https://{served.http_address}"
        async with httpx.AsyncClient(base_url=url, headers=bearer, verify=trusting(files)) as client:
            assert await get(client) == 200
        async with httpx.AsyncClient(base_url=url, headers=bearer) as client:
            with pytest.raises(httpx.ConnectError):
                await get(client)


async def test_with_a_client_ca_only_clients_signed_by_it_can_connect(redis_url: str, files: Files) -> None:
    tls = Tls(files.certificate, files.key, files.client_ca)
    async with gateway(redis_url, grants=grants(), tls=tls) as served:
        async with channel(served, files, with_client=True) as known:
            await Client(known).publish("user-1", a=1)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await Client(known, None).get("user-1")
            assert refusal(error.value)[1] == "UnauthenticatedError"
        async with channel(served, files) as stranger:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await Client(stranger).get("user-1")
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        for with_client, outcome in ((True, 200), (False, None)):
            verify, headers = trusting(files, with_client=with_client), {"authorization": "Bearer all"}
            async with httpx.AsyncClient(base_url=f"https://{served.http_address}", verify=verify) as client:
                try:
                    found = (await client.get("/v1/sessions/user-1/variables", headers=headers)).status_code
                except httpx.HTTPError:
                    found = None
            assert found == outcome


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.7:0", "elixir.example:0"])
@pytest.mark.parametrize("guard", ["nothing", "token", "tls"])
def test_off_loopback_it_listens_only_with_tls_and_a_token(address: str, guard: str, files: Files) -> None:
    guards: dict[str, Any] = {
        "nothing": {}, "token": {"grants": grants()}, "tls": {"tls": Tls(files.certificate, files.key)}
    }[guard]  # fmt: skip
    for side in ({"grpc": address}, {"http": address}):
        with pytest.raises(ConfigurationError, match="doesn't listen on") as refused:
            GatewaySettings(**side, **guards)
        lacks = {"nothing": "TLS and a token", "token": "TLS", "tls": "a token"}[guard]
        assert f"without {lacks}: " in str(refused.value)
    GatewaySettings(grpc=address, http=None, grants=grants(), tls=Tls(files.certificate, files.key))


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "[::1]:0", "127.9.9.9:1"])
def test_on_loopback_neither_is_required(address: str) -> None:
    assert GatewaySettings(grpc=address).grpc == address


@pytest.mark.parametrize("address", ["", "50061", "localhost", "localhost:x", "localhost:99999", ":1", "a:-1"])
def test_a_malformed_address_is_rejected(address: str) -> None:
    with pytest.raises(ConfigurationError):
        GatewaySettings(grpc=address)


async def test_a_port_in_use_and_broken_files_are_reported(redis_url: str, tmp_path: Path, files: Files) -> None:
    async with gateway(redis_url) as served:
        for side, address in (("grpc", served.grpc_address), ("http", served.http_address)):
            addresses: dict[str, Any] = {"grpc": None, "http": None, side: address}
            with pytest.raises(ConfigurationError, match=str(address)):
                Gateway(GatewaySettings(redis_url, **addresses))
    (tmp_path / "junk.pem").write_text("junk")
    for certificate in (tmp_path / "junk.pem", tmp_path / "missing.pem"):
        for side in ("grpc", "http"):
            addresses = {"grpc": None, "http": None, side: "127.0.0.1:0"}
            with pytest.raises(ConfigurationError):
                Gateway(GatewaySettings(redis_url, tls=Tls(certificate, files.key), **addresses))


async def test_without_tokens_every_local_caller_is_admitted(redis_url: str) -> None:
    async with gateway(redis_url) as served, connected(served.grpc_address, None) as client:
        await client.publish("anything", a=1)
        async with http(served.http_address, None) as other:
            assert (await other.get("/v1/sessions/anything/variables")).status_code == 200


async def test_health_and_reflection_need_no_token(redis_url: str) -> None:
    async with gateway(redis_url, grants=grants()) as served, connected(served.grpc_address) as client:
        health: Any = health_pb2_grpc.HealthStub(client.channel)
        for service in ("", "dspex.fleet.v1.Variables", "dspex.fleet.v1.Predictions", "dspex.fleet.v1.Programs"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        channel: Any = client.channel
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        (listed,) = await first(call, 1)
        names = {entry.name for entry in listed.list_services_response.service}
        assert {"dspex.fleet.v1.Variables", "grpc.health.v1.Health"} <= names


async def test_health_reports_that_the_store_is_unavailable() -> None:
    with EmbeddedRedis.start() as server:
        async with gateway(server.url, redis_timeout_s=0.5) as served, connected(served.grpc_address) as client:
            stop = asyncio.Event()
            probing = asyncio.create_task(every(0.05, served._probe, OutageLog(LOG, "Can't probe")))
            health: Any = health_pb2_grpc.HealthStub(client.channel)

            async def status() -> int:
                return (await health.Check(health_pb2.HealthCheckRequest())).status

            assert await status() == health_pb2.HealthCheckResponse.SERVING
            server.stop()

            async def not_serving() -> bool:
                return await status() == health_pb2.HealthCheckResponse.NOT_SERVING

            await eventually(not_serving, "the gateway to say that Redis is away")
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await client.get("user-1")
            assert refusal(error.value)[:2] == ("UNAVAILABLE", "StoreUnavailableError")
            async with http(served.http_address) as other:
                answer = await other.get("/readyz")
                assert (answer.status_code, answer.json()["status"]) == (503, "failing")
                assert answer.json()["checks"]["store"] == {"status": "failing", "problem": "it doesn't answer"}
                assert (await other.get("/healthz")).status_code == 200
            probing.cancel()
            stop.set()


async def test_shutdown_ends_streams_at_once_and_lets_calls_finish(redis_url: str) -> None:
    async with gateway(redis_url) as served, connected(served.grpc_address) as client:
        token = await client.publish("user-1", a=1)
        stream = client.variables.Watch(pb.WatchRequest(session="user-1"))
        await first(stream, 1)
        epoch, revision = token.split(".")
        later = f"{epoch}.{int(revision) + 1}"
        waiting = asyncio.ensure_future(client.get("user-1", at_least=later, wait_s=1))
        await asyncio.wait([waiting], timeout=0.1)
        stopping = asyncio.create_task(served.stop())
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await first(stream, 1)
        assert refusal(ended.value)[:2] == ("UNAVAILABLE", "DrainingError")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await waiting
        assert refusal(error.value)[1] == "RevisionNotReachedError"
        await stopping


@contextmanager
def running(redis_url: str, *options: str) -> Generator[tuple[subprocess.Popen[str], dict[str, str]]]:
    command = [sys.executable, "-m", "snakepit_bridge.cli", "--redis-url", redis_url, "gateway"]
    process = PreloadedPopen(
        [*command, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", *options],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield process, json.loads(line)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def tokens_file(tmp_path: Path) -> tuple[Path, str]:
    words = ["gateway-token", "shop", "--scope", "publish", "--scope", "read", "-s", "user-*"]
    created = run_preloaded([sys.executable, "-m", "snakepit_bridge.cli", *words], cwd=ROOT)
    assert created.returncode == 0, created.stderr
    (tmp_path / "tokens.toml").write_text(created.stdout, encoding="utf-8")
    token = created.stderr.strip().rpartition(" ")[2]
    assert token not in created.stdout
    assert Grants.load(tmp_path / "tokens.toml").find(token) is not None
    return tmp_path / "tokens.toml", token


async def test_the_command_serves_and_exits_cleanly_on_sigterm(redis_url: str, tokens_file: tuple[Path, str]) -> None:
    file, token = tokens_file
    with running(redis_url, "--tokens", str(file), "--drain", "3") as (process, addresses):
        async with connected(addresses["grpc"], token) as client, http(addresses["http"], token) as other:
            published = await client.publish("user-1", a=1)
            found = (await other.get("/v1/sessions/user-1/variables")).json()
            assert (found["token"], found["authority"]) == (published, "store")
            history = (await other.get("/v1/sessions/user-1/history")).json()
            assert history["revisions"][0]["author"] == "shop"
            assert (await other.get("/v1/sessions/other/variables")).status_code == 403
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 20) == 0
        assert process.stderr is not None
        log = process.stderr.read()
        assert "Traceback" not in log, log
        assert token not in log


async def test_a_gateway_killed_during_a_request_releases_its_id_within_seconds(redis_url: str) -> None:
    with BridgeServer() as elixir:
        elixir.begin("s")
        elixir.register("s", "temperature", "float", 0.5)
        bridge = ("--bridge", elixir.address)
        with running(redis_url, *bridge) as (killed, first_said), running(redis_url, *bridge) as (_, addresses):
            change = pb.Change(name="temperature", value_json=b"1.5")
            request = pb.PublishRequest(session="s", changes=[change], request_id="r-1")
            async with connected(first_said["grpc"], None) as client:
                elixir.turn(latency_s=4.0)  # so that it is killed while it holds the lease
                trying = asyncio.ensure_future(client.variables.Publish(request))
                async with Redis.from_url(redis_url) as redis:

                    async def claimed() -> list[Any]:
                        return await redis.keys("*:turn")

                    await eventually(claimed, "the request's turn being taken")
                killed.kill()
                with pytest.raises(grpc.aio.AioRpcError):
                    await trying
            elixir.turn(latency_s=0.0)
            began = Stopwatch()
            with refreshing(redis_url, elixir.address, "s"):
                async with connected(addresses["grpc"], None) as client:
                    token = (await client.variables.Publish(request, timeout=PATIENCE_S)).token
                    assert began.elapsed_s < 15
                    assert await client.values("s", at_least=token) == {"temperature": 1.5}
                    assert (await client.variables.Publish(request, timeout=PATIENCE_S)).token == token


@contextmanager
def refreshing(redis_url: str, bridge: str, session: str) -> Generator[None]:
    command = [sys.executable, "-m", "workers.refresher", "--bridge", bridge, "--sessions", session]
    process = PreloadedPopen(command, cwd=ROOT, env={**os.environ, "DSPEX_REDIS_URL": redis_url})
    try:
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def test_the_command_refuses_to_listen_off_loopback(redis_url: str) -> None:
    command = [sys.executable, "-m", "snakepit_bridge.cli", "--redis-url", redis_url, "gateway", "--grpc", "0.0.0.0:0"]
    ran = run_preloaded(command, cwd=ROOT, timeout=PATIENCE_S)
    assert ran.returncode == 1
    assert "without TLS and a token" in ran.stderr
    assert "Traceback" not in ran.stderr
