"""The gateway over HTTP: the same operations as over gRPC, usable with curl."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx
import jsonschema
import pytest

from tests.integration.gateway_clients import connected, gateway, grants, http
from workers.gateway import Gateway, GatewayLimits

JSON = {"content-type": "application/json"}


@pytest.fixture
async def served(redis_url: str) -> AsyncGenerator[Gateway]:
    async with gateway(redis_url, grants=grants(), limits=GatewayLimits(message_bytes=100_000)) as running:
        yield running


@pytest.fixture
async def client(served: Gateway) -> AsyncGenerator[httpx.AsyncClient]:
    async with http(served.http_address) as connected_client:
        yield connected_client


async def publish(client: httpx.AsyncClient, session: str = "user-1", **values: Any) -> str:
    body = {"changes": [{"name": name, "value": value} for name, value in values.items()]}
    answer = await client.post(f"/v1/sessions/{session}/publish", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["token"]


async def events(answer: httpx.Response) -> AsyncIterator[tuple[str, Any]]:
    kind = "message"
    async for line in answer.aiter_lines():
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield kind, json.loads(line.removeprefix("data: "))
            kind = "message"


async def test_a_value_is_published_and_read_as_plain_json(client: httpx.AsyncClient) -> None:
    change = {"name": "temperature", "value": 0.5, "type": "float", "constraints": {"max": 2}}
    token = (await client.post("/v1/sessions/user-1/publish", json={"changes": [change]})).json()["token"]
    found = (await client.get("/v1/sessions/user-1/variables", params={"at_least": token})).json()
    assert found.pop("confirmed_at").endswith("Z")
    assert found == {
        "session": "user-1",
        "token": token,
        "variables": [{"name": "temperature", "type": "float", "value": 0.5, "constraints": {"max": 2}}],
        "authority": "store",
        "staleness_s": 0.0,
        "staged": [],
    }


async def test_numbers_of_any_size_and_non_finite_ones_survive(client: httpx.AsyncClient) -> None:
    big = b'{"name":"big","value":1000000000000000000000000000001}'
    body = b'{"changes":[%s,{"name":"nan","type":"float","value":"NaN"}]}' % big
    assert (await client.post("/v1/sessions/user-1/publish", content=body, headers=JSON)).status_code == 200
    answer = await client.get("/v1/sessions/user-1/variables")
    assert b'"value":1000000000000000000000000000001' in answer.content
    assert b'"value":"NaN"' in answer.content


async def test_an_empty_string_is_a_value_and_an_empty_token_is_absent(client: httpx.AsyncClient) -> None:
    token = await publish(client, a="")
    answer = await client.get(f"/v1/sessions/user-1/variables?at_least={token}&exactly=")
    assert answer.json()["variables"][0]["value"] == ""


async def test_sessions_of_any_name_have_a_path(client: httpx.AsyncClient) -> None:
    for name in ("user-1", "a/b", "grüße 1", "%", "variables"):
        quoted = httpx.URL("http://x/").copy_with(path=f"/v1/sessions/{name}/").raw_path.decode()
        token = (await client.post(f"{quoted}publish", json={"changes": [{"name": "x", "value": name}]})).json()[
            "token"
        ]
        found = (await client.get(f"{quoted}variables")).json()
        assert (found["session"], found["token"]) == (name, token)


async def test_an_error_has_its_status_its_class_and_its_fields(client: httpx.AsyncClient) -> None:
    await publish(client, a=1)
    answer = await client.post("/v1/sessions/user-1/publish", json={"changes": [{"name": "a", "value": "x"}]})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["kind"], error["status"], error["fields"][0]) == ("ValidationError", "INVALID_ARGUMENT", "a")
    assert (await client.get("/v1/sessions/nowhere/variables")).status_code == 404
    stale = {"changes": [{"name": "a", "value": 2}], "expected": "1.1"}
    assert (await client.post("/v1/sessions/user-1/publish", json=stale)).status_code == 409
    assert (await client.get("/v1/sessions/user-1/variables?exactly=1.1")).status_code == 410


MALFORMED = {
    "no JSON": b"{",
    "no object": b"[1]",
    "unquoted NaN": b'{"changes":[{"name":"a","value":NaN}]}',
    "deep": b'{"changes":' + b"[" * 50_000,
    "not UTF-8": b'{"changes":[{"name":"\xff","value":1}]}',
    "unknown field": b'{"change":[]}',
    "wrong type": b'{"changes":{"name":"a"}}',
    "item of a wrong type": b'{"changes":["a"]}',
    "unknown type": b'{"changes":[{"name":"a","value":1,"type":"colour"}]}',
    "both of two": b'{"changes":[{"name":"a","value":1,"delete":true}]}',
    "neither": b'{"changes":[{"name":"a"}]}',
    "another session": b'{"session":"user-2","changes":[{"name":"a","value":1}]}',
    "nothing": b"",
    "lone surrogate": b'{"changes":[{"name":"\\ud800","value":1}]}',
    "a number without end": b'{"changes":[{"name":"a","value":' + b"9" * 5_000 + b"}]}",
    "a bool as text": b'{"changes":[],"replace":"yes"}',
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_body_is_rejected_and_nothing_is_published(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post("/v1/sessions/user-1/publish", content=body, headers=JSON)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["kind"] in ("MalformedError", "ValidationError")
    assert (await client.get("/v1/sessions/user-1/variables")).status_code == 404


@pytest.mark.parametrize(
    "query", ["limit=x", "limit=-1", "limit=1e3", "limit=4294967296", "limit=1&limit=2", "wrong=1", "limit="]
)
async def test_a_malformed_query_is_rejected(client: httpx.AsyncClient, query: str) -> None:
    await publish(client, a=1)
    answer = await client.get(f"/v1/sessions/user-1/history?{query}")
    assert (answer.status_code, answer.json()["error"]["kind"]) == (400, "MalformedError")


async def test_a_body_above_the_limit_is_rejected_with_or_without_its_length(client: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncGenerator[bytes]:
        for _ in range(200):
            yield b" " * 1_000

    for content in (b" " * 200_000, chunks()):
        answer = await client.post("/v1/sessions/user-1/publish", content=content, headers=JSON)
        assert (answer.status_code, answer.json()["error"]["kind"]) == (413, "TooLargeError")
    await publish(client, a=1)


async def test_watch_is_an_event_stream_that_ends_with_the_reason(client: httpx.AsyncClient, served: Gateway) -> None:
    tokens = [await publish(client, a=0)]
    async with client.stream("GET", "/v1/sessions/user-1/watch") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        seen = events(answer)
        assert (await anext(seen))[1]["token"] == tokens[0]
        for value in (1, 2):
            tokens.append(await publish(client, a=value))
            kind, snapshot = await anext(seen)
            assert (kind, snapshot["token"], snapshot["variables"][0]["value"]) == ("message", tokens[-1], value)
        stopping = asyncio.create_task(served.stop())
        kind, event = await anext(seen)
        assert (kind, event["error"]["kind"]) == ("error", "DrainingError")
    await stopping


async def test_tokens_scopes_and_sessions_are_checked(served: Gateway) -> None:
    body = {"changes": [{"name": "a", "value": 1}]}
    cases = {
        (None, "user-1"): (401, "UnauthenticatedError"),
        ("forged", "user-1"): (401, "UnauthenticatedError"),
        ("reader", "user-1"): (403, "NotGrantedError"),
        ("publisher", "other-1"): (403, "NotGrantedError"),
        ("publisher", "user-1"): (200, None),
    }
    for (token, session), (status, kind) in cases.items():
        async with http(served.http_address, token) as client:
            answer = await client.post(f"/v1/sessions/{session}/publish", json=body)
            assert (answer.status_code, answer.json().get("error", {}).get("kind")) == (status, kind)
            assert ("www-authenticate" in answer.headers) == (status == 401)


async def test_a_publish_over_http_is_visible_over_grpc(client: httpx.AsyncClient, served: Gateway) -> None:
    token = await publish(client, a=1)
    async with connected(served.grpc_address) as other:
        assert await other.values("user-1", at_least=token) == {"a": 1}


async def test_the_description_has_every_route_and_needs_no_token(served: Gateway) -> None:
    async with http(served.http_address, None) as client:
        document = (await client.get("/openapi.json")).json()
        assert document["openapi"].startswith("3.1")
        assert {(method, path) for path, methods in document["paths"].items() for method in methods} >= {
            ("post", "/v1/sessions/{session}/publish"),
            ("get", "/v1/predictions/{id}/stream"),
            ("post", "/v1/predictions/batch"),
            ("get", "/v1/programs/{reference}"),
        }
        for name in _references(document):
            assert name in document["components"]["schemas"]
        for path, checks in (("/livez", {"event_loop"}), ("/healthz", {"event_loop"}), ("/startupz", {"startup"})):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["status"], answer.json()["checks"].keys()) == (200, "ok", checks)
        assert (await client.get("/readyz")).json() == {
            "status": "ok",
            "checks": {name: {"status": "ok"} for name in ("startup", "event_loop", "shutdown", "store")},
        }
        assert (await client.get("/nowhere")).json()["error"]["kind"] == "NotFound"
        assert (await client.delete("/v1/programs")).status_code == 405


async def test_responses_and_errors_match_the_description(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    await publish(client, a=1, b="x", c=[0.5], d={"data": [1], "shape": [1]})
    urls = {
        "/v1/sessions/{session}/variables": "/v1/sessions/user-1/variables",
        "/v1/sessions/{session}/history": "/v1/sessions/user-1/history",
        "/v1/predictions/{id}": "/v1/predictions/unknown",
        "/v1/programs": "/v1/programs",
        "/v1/programs/{reference}": "/v1/programs/nowhere",
    }
    for path, url in urls.items():
        answer = await client.get(url)
        described = document["paths"][path]["get"]["responses"][str(answer.status_code)]["content"]["application/json"]
        jsonschema.validate(answer.json(), {**described["schema"], "components": document["components"]})


def _references(part: Any) -> set[str]:
    if isinstance(part, dict):
        own = {part["$ref"].rpartition("/")[2]} if "$ref" in part else set[str]()
        return own.union(*map(_references, part.values()))
    return set[str]().union(*map(_references, part)) if isinstance(part, list) else set()


async def test_a_call_ends_when_its_client_no_longer_waits(client: httpx.AsyncClient) -> None:
    await publish(client, a=1)
    answer = await client.get(
        "/v1/sessions/user-1/variables?at_least=9000000000000000000.1&wait_s=60", headers={"request-timeout": "1"}
    )
    assert answer.status_code in (409, 504)
    for wrong in ("soon", "0", "nan", "-1", ""):
        answer = await client.get("/v1/sessions/user-1/variables", headers={"request-timeout": wrong})
        assert answer.status_code == 400
