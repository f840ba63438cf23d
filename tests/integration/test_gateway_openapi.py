"""Check every operation of the OpenAPI description with generated requests against a gateway."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CheckContext, not_a_server_error
from schemathesis.core.transport import Response
from schemathesis.generation.case import Case
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.harness.preloaded import PreloadedPopen
from tests.harness.waiting import PATIENCE_S
from workers.dev.redis_server import EmbeddedRedis
from workers.gateway import new_token, to_toml
from workers.gateway.http.ofrep import PATH
from workers.gateway.http.openapi import build_description
from workers.gateway.operations import build_operations

ROOT = Path(__file__).parents[2]
TOKEN = new_token()
BEARER = {"Authorization": f"Bearer {TOKEN}"}
# Operations that would wait forever, since nothing runs predictions, publishes or applies revisions here.
LASTING = (
    "/v1/sessions/{session}/watch",
    "/v1/predictions/{id}/stream",
    "/v1/predictions/{id}/await",
    "/v1/rollouts/{target}/watch",
    "/v1/jobs/{id}/watch",
    "/v1/sessions/{session}/labels/{label}/promote",
)
FEW = settings(
    max_examples=20,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=cast("Any", [*HealthCheck]),
)


class Served:
    """A gateway process with some data.

    Attributes:
        url: where it is.
        known: for each field of a path something that is there.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        with httpx.Client(base_url=url, headers=BEARER, timeout=30) as client:
            change = {"name": "temperature", "value": 0.5, "type": "float", "constraints": {"max": 2}}
            assert client.post("/v1/sessions/known/publish", json={"changes": [change]}).status_code == 200
            spec = {"module": "Predict", "signature": "question -> answer"}
            assert (
                client.post("/v1/programs", json={"name": "asked", "spec": spec, "labels": ["prod"]}).status_code == 200
            )
            request = {"program": "asked", "session": "known", "inputs": {"question": "why?"}}
            id = client.post("/v1/predictions", json=request).json()["id"]
        self.known = {"session": "known", "id": id, "reference": "asked"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    file = tmp_path_factory.mktemp("gateway") / "tokens.toml"
    file.write_text(to_toml("all", TOKEN, ["publish", "predict", "read", "admin"], ["*"]), encoding="utf-8")
    with EmbeddedRedis.start() as redis:
        command = [sys.executable, "-m", "snakepit_bridge.cli", "--redis-url", redis.url, "gateway", "--no-grpc"]
        process = PreloadedPopen(
            [*command, "--http", "127.0.0.1:0", "--tokens", str(file), "--rate", "100000"],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            yield Served(f"http://{json.loads(process.stdout.readline())['http']}")
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE_S)


DOCUMENT = build_description(build_operations(Mock()))
described = schemathesis.openapi.from_dict(DOCUMENT)
described.config.generation.update(deterministic=True, max_examples=20)


@described.auth()
class Bearer:
    """The token, which schemathesis also omits or forges to check that it is required."""

    def get(self, case: Case[Any], context: Any) -> str:
        return TOKEN

    def set(self, case: Case[Any], data: str, context: Any) -> None:
        headers: Any = {**(case.headers or {}), "Authorization": f"Bearer {data}"}
        case.headers = headers


def test_the_served_description_is_the_generated_one(served: Served) -> None:
    assert httpx.get(f"{served.url}/openapi.json").json() == DOCUMENT


@described.parametrize()
@FEW
def test_an_operation_matches_its_description(case: Case[Any], served: Served) -> None:
    find_something(case, served)
    hasten(case)
    if excludes_itself(case):
        return
    response = case.call(base_url=served.url, headers=patience(case), timeout=PATIENCE_S)
    # A client with so short a timeout may get a timeout.
    late = [not_a_server_error] if case.path in LASTING and response.status_code == 504 else []
    # Its only header is any text, so that none can be wrong.
    harmless = [negative_data_rejection] if case.path == PATH else []
    case.validate_response(
        response,
        excluded_checks=[positive_data_acceptance, *late, *harmless],
        additional_checks=[what_is_described_can_be_read],
    )


def find_something(case: Case[Any], served: Served) -> None:
    """Refer to existing data in half of the requests; the others end as *not found*."""
    for name, value in case.path_parameters.items():
        if name in served.known and isinstance(value, str) and 0 < len(value) <= 128 and len(value) % 2:
            case.path_parameters[name] = served.known[name]


def hasten(case: Case[Any]) -> None:
    """Shorten a wait for a revision that is never published here."""
    if case.query and number(case.query.get("wait_s")) > 0:
        case.query["wait_s"] = 0.1


def patience(case: Case[Any]) -> dict[str, str]:
    """Return headers with a client timeout, unless the request has an invalid one."""
    header = (case.headers or {}).get("request-timeout", "1")
    if not 0.1 <= number(header) <= 86_400:
        return {}
    return {"request-timeout": "0.3" if case.path in LASTING else "20"}


def excludes_itself(case: Case[Any]) -> bool:
    """Check for two parameters that exclude each other, which a description can't express."""
    return bool(case.query) and bool(case.query.get("at_least")) and bool(case.query.get("exactly"))


def number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return -1.0


def what_is_described_can_be_read(_: CheckContext, response: Response, case: Case[Any]) -> None:
    """Check that a request that matches the description is never rejected as malformed."""
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code != 400:
        return
    if case.path.startswith("/ofrep/"):
        assert response.json().get("errorCode") != "PARSE_ERROR", response.text
        return
    error = response.json()["error"]
    # That something is a JSON schema, or differs from its neighbours by name, can't be described.
    if error["kind"] == "MalformedError" and case.path == "/v1/sessions/{session}/checks":
        return
    assert error["kind"] != "MalformedError", response.text
