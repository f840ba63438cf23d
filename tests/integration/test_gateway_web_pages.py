"""A web page in an operator's browser can do nothing to a gateway on the same machine."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from snakepit_bridge.exceptions import ConfigurationError
from tests.integration.gateway_clients import gateway, http
from workers.gateway import Gateway
from workers.gateway.access.web_origins import WebOrigins

PUBLISH = b'{"changes": [{"name": "a", "value": "forged"}]}'
JSON = {"content-type": "application/json"}


@pytest.fixture
async def served(redis_url: str) -> AsyncGenerator[Gateway]:
    async with gateway(redis_url) as running:
        yield running


@pytest.fixture
async def client(served: Gateway) -> AsyncGenerator[httpx.AsyncClient]:
    async with http(served.http_address, None) as connected_client:
        yield connected_client


async def test_a_page_can_not_publish_with_requests_that_need_no_preflight(client: httpx.AsyncClient) -> None:
    kinds = [None, "", "text/plain", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded",
             "multipart/form-data; boundary=x", "application/jsonp", "text/json", "text/plain; application/json",
             "application/json-patch+json"]  # fmt: skip
    for kind in kinds:
        headers = {} if kind is None else {"content-type": kind}
        answer = await client.post("/v1/sessions/user-1/publish", content=PUBLISH, headers=headers)
        assert (answer.status_code, answer.json()["error"]["kind"]) == (415, "MediaTypeError"), kind
    assert (await client.get("/v1/sessions/user-1/variables")).status_code == 404


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON", "application/json; charset=utf-8"])
async def test_json_content_types_are_accepted_in_any_spelling(client: httpx.AsyncClient, kind: str) -> None:
    answer = await client.post("/v1/sessions/user-1/publish", content=PUBLISH, headers={"content-type": kind})
    assert answer.status_code == 200


FOREIGN = [
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": ""},
    {"origin": "http://localhost:3000"},
    {"origin": "file://"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_pages_of_another_origin_can_neither_write_nor_read(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    assert (await client.post("/v1/sessions/user-1/publish", content=PUBLISH, headers=JSON)).status_code == 200
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/v1/sessions/user-1/publish", {"content": PUBLISH, "headers": {**JSON, **headers}}),
        ("POST", "/v1/predictions/x/cancel", {"headers": headers}),
        ("GET", "/v1/sessions/user-1/variables", {"headers": headers}),
        ("GET", "/v1/sessions/user-1/watch", {"headers": headers}),
        ("GET", "/v1/programs", {"headers": headers}),
    ]
    for method, path, how in requests:
        answer = await client.request(method, path, **how)
        assert (answer.status_code, answer.json()["error"]["kind"]) == (403, "OriginNotAllowedError"), path
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert (await client.options("/v1/sessions/user-1/publish", headers=headers)).status_code == 405


REBOUND = ["evil.example", "evil.example:8061", "localhost.evil.example", "localhost@evil.example", "127.0.0.1.evil.io",
           "10.0.0.5", "0.0.0.0", "evil", "[::2]", "localhost,evil", "x" * 300]  # fmt: skip


@pytest.mark.parametrize("host", REBOUND)
async def test_a_rebound_dns_name_reads_nothing(client: httpx.AsyncClient, host: str) -> None:
    for path in ("/v1/sessions/user-1/variables", "/v1/programs", "/v1/predictions/x", "/openapi.json"):
        answer = await client.get(path, headers={"host": host})
        assert answer.status_code == 403, path
        assert answer.json()["error"]["kind"] == "HostNotAllowedError"
    forged = await client.post("/v1/sessions/user-1/publish", content=PUBLISH, headers={**JSON, "host": host})
    assert forged.status_code == 403
    assert (await client.get("/v1/sessions/user-1/variables")).status_code == 404


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:1234", "localhost.", "127.0.0.1", "127.0.0.1:99", "127.9.9.9", "[::1]:80", "[::1]"]
)
async def test_loopback_names_are_allowed(client: httpx.AsyncClient, host: str) -> None:
    answer = await client.post("/v1/sessions/user-1/publish", content=PUBLISH, headers={**JSON, "host": host})
    assert answer.status_code == 200


async def test_health_probes_are_answered_for_any_host(client: httpx.AsyncClient) -> None:
    for path in ("/livez", "/healthz", "/readyz", "/startupz"):
        assert (await client.get(path, headers={"host": "10.0.0.5:8061"})).status_code == 200


async def test_configured_hosts_and_origins_are_allowed(redis_url: str) -> None:
    named = {"hosts": ("fleet.example",), "origins": ("https://app.example",)}
    async with gateway(redis_url, **named) as served, http(served.http_address, None) as client:
        for headers in ({"host": "fleet.example:443"}, {"origin": "https://app.example"}, {"host": "localhost"}):
            answer = await client.post("/v1/sessions/u/publish", content=PUBLISH, headers={**JSON, **headers})
            assert answer.status_code == 200, headers
            assert not [name for name in answer.headers if name.startswith("access-control-")]
        for headers in ({"host": "evil.example"}, {"origin": "https://app.example.evil"}):
            assert (await client.get("/v1/sessions/u/variables", headers=headers)).status_code == 403, headers


def test_off_loopback_every_host_is_allowed_unless_some_are_configured() -> None:
    WebOrigins.from_settings("0.0.0.0", (), ()).check("anything.example", None, None)
    assert WebOrigins.from_settings("0.0.0.0", ("a.example",), ()).hosts == {"a.example", "0.0.0.0"}
    assert WebOrigins.from_settings("127.0.0.1", ("*",), ()).hosts is None


@pytest.mark.parametrize("host", ["", "https://a.example", "a.example:80", "a/b", "a b", "a,b"])
def test_a_malformed_host_is_rejected_at_start(host: str) -> None:
    with pytest.raises(ConfigurationError, match="allowed host"):
        WebOrigins.from_settings("127.0.0.1", (host,), ())


@pytest.mark.parametrize("origin", ["", "*", "null", "a.example", "https://", "https://a/b", "https://*.a", "ftp://a"])
def test_a_malformed_origin_is_rejected_at_start(origin: str) -> None:
    with pytest.raises(ConfigurationError, match="allowed origin"):
        WebOrigins.from_settings("127.0.0.1", (), (origin,))
