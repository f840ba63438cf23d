"""One ``rediss://`` URL does for every process, and says nothing for all of them to verify the server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import dspy
import pytest
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import BridgeError, StoreUnavailableError
from tests.harness.containers import ROOT
from tests.harness.preloaded import run_preloaded
from tests.harness.stage import Stage, fresh, stage
from tests.harness.tls import Certificates, tls_redis
from tests.harness.waiting import PATIENCE_S
from tests.integration.gateway_clients import connected, gateway

pytestmark = pytest.mark.keeps_keys(".*")

# Every spelling of redis-py and of Celery comes to the same options, see tests/unit/client/test_broker.py.
VERIFIED = {"unsaid": {}, "celerys": {"ssl_cert_reqs": "CERT_REQUIRED"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[str, Certificates]]:
    with tls_redis(tmp_path_factory.mktemp("tls")) as served:
        yield served


def url_of(server: tuple[str, Certificates], *, trusting: bool = True, **options: str) -> str:
    bare, files = server
    ours = {"ssl_certfile": str(files.client), "ssl_keyfile": str(files.client_key)}
    theirs = {"ssl_ca_certs": str(files.authority)} if trusting else {}
    return f"{bare}?{urlencode({**ours, **theirs, **options})}"


def cli(url: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakepit_bridge.cli", "--redis-url", url, *words]
    return run_preloaded(command, timeout=PATIENCE_S, cwd=ROOT)


async def answers_everywhere(play: Stage) -> None:
    """Assert that client, worker, gateway and command line all work with the stage's URL."""
    session = fresh("tls")
    play.fleet.register("qa", dspy.Predict("question -> answer"), bindings={"temperature": "t"})
    async with gateway(play.url) as served, connected(served.grpc_address) as client:
        token = await client.publish(session, t=0.25)
    handle = play.fleet.submit("qa", {"question": session}, session=session, at_least=token)
    assert handle.get().answer == f"answer of {session}"
    assert play.requests_with(session)[0].body["temperature"] == 0.25
    listed = cli(play.url, "status")
    assert (listed.returncode, listed.stderr) == (0, ""), listed


@pytest.mark.parametrize("options", VERIFIED.values(), ids=VERIFIED)
async def test_every_process_works_with_one_url(
    server: tuple[str, Certificates], options: dict[str, Any], tmp_path: Path
) -> None:
    with stage(tmp_path, url=url_of(server, **options)) as play:
        await answers_everywhere(play)


async def test_without_verification_no_authority_is_needed_if_the_url_says_so(
    server: tuple[str, Certificates], tmp_path: Path
) -> None:
    with stage(tmp_path, url=url_of(server, trusting=False, ssl_cert_reqs="none")) as play:
        await answers_everywhere(play)


def test_a_server_that_nobody_vouches_for_is_refused_by_broker_and_backend_alike(
    server: tuple[str, Certificates],
) -> None:
    """Celery's own connections verified nobody where the URL didn't ask for it."""
    fleet = Fleet(url_of(server, trusting=False), timeout_s=3)
    with pytest.raises(StoreUnavailableError, match="(?i)certificate"):
        fleet.programs()
    with pytest.raises(RedisError, match="(?i)certificate|verify"):
        fleet.app.backend.client.ping()
    with fleet.app.connection_for_write() as broker, pytest.raises(OperationalError, match="(?i)certificate|verify"):
        broker.ensure_connection(max_retries=1, timeout=3)


def test_an_option_that_can_not_be_is_named(server: tuple[str, Certificates]) -> None:
    for url, named in (
        (url_of(server, ssl_cert_reqs="perhaps"), r"ssl_cert_reqs is one of required, optional, none.*'perhaps'"),
        ("redis://u:hunter2@h?ssl_ca_certs=/ca.pem", r"ssl_ca_certs is an option of TLS.*redis://"),
    ):
        with pytest.raises(BridgeError, match=named) as refused:
            Fleet(url)
        assert "hunter2" not in str(refused.value)
