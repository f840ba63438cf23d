"""What a gateway measures of its requests, by the conventions' names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from snakepit_bridge.exceptions import SessionNotFoundError, StoreUnavailableError
from snakepit_bridge.telemetry.metrics import HTTP_DURATION, RPC_DURATION
from tests.harness.meter import RecordedMeter, recorded_meter
from workers.gateway.request_metrics import RequestMetrics, measure_rpc

METHOD = "/dspex.fleet.v1.Predictions/Submit"


@pytest.fixture
def meter() -> Generator[RecordedMeter]:
    with recorded_meter() as meter:
        yield meter


@pytest.mark.parametrize(
    ("error", "status", "error_type"),
    [
        (None, "OK", ""),
        (SessionNotFoundError("s"), "NOT_FOUND", "SessionNotFoundError"),
        (StoreUnavailableError("redis://", "away"), "UNAVAILABLE", "StoreUnavailableError"),
        (KeyError("x"), "INTERNAL", "KeyError"),
    ],
)
def test_a_call_is_measured_by_method_and_status(
    meter: RecordedMeter, error: Exception | None, status: str, error_type: str
) -> None:
    with measure_rpc(METHOD) as outcome:
        outcome.error = error
    [(seconds, labels)] = meter.of(RPC_DURATION)
    assert seconds >= 0
    assert labels == {
        "rpc.system.name": "grpc",
        "rpc.method": "dspex.fleet.v1.Predictions/Submit",
        "rpc.response.status_code": status,
        "error.type": error_type,
    }


def test_a_call_that_its_client_leaves_is_cancelled(meter: RecordedMeter) -> None:
    with pytest.raises(asyncio.CancelledError), measure_rpc(METHOD):
        raise asyncio.CancelledError
    assert [labels["rpc.response.status_code"] for _, labels in meter.of(RPC_DURATION)] == ["CANCELLED"]


def client() -> httpx.AsyncClient:
    async def get(request: Request) -> Response:
        return Response(status_code=int(request.query_params.get("status", "200")))

    async def stream(_: Request) -> Response:
        async def parts() -> AsyncGenerator[bytes]:
            yield b"a"
            await asyncio.sleep(0.05)
            yield b"b"

        return StreamingResponse(parts())

    async def fail(_: Request) -> Response:
        raise RuntimeError

    routes = [
        Route("/v1/sessions/{session:path}/variables", get, methods=["GET", "POST"]),
        Route("/stream", stream),
        Route("/fail", fail),
    ]
    app = Starlette(routes=routes, middleware=[Middleware(RequestMetrics, routes)])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


async def test_requests_are_told_apart_by_the_template_of_their_route(meter: RecordedMeter) -> None:
    for session in ("a", "b/c"):
        await client().get(f"/v1/sessions/{session}/variables")
    await client().post("/v1/sessions/a/variables?status=409")
    await client().get("/no/such/page")
    found = [
        (labels["http.request.method"], labels["http.route"], labels["http.response.status_code"])
        for _, labels in meter.of(HTTP_DURATION)
    ]
    assert found == [
        ("GET", "/v1/sessions/{session}/variables", "200"),
        ("GET", "/v1/sessions/{session}/variables", "200"),
        ("POST", "/v1/sessions/{session}/variables", "409"),
        ("GET", "", "404"),
    ]


async def test_a_method_of_a_senders_choosing_makes_no_label(meter: RecordedMeter) -> None:
    await client().request("BREW", "/v1/sessions/a/variables")
    assert [labels["http.request.method"] for _, labels in meter.of(HTTP_DURATION)] == ["_OTHER"]


async def test_a_stream_is_measured_until_its_end(meter: RecordedMeter) -> None:
    assert (await client().get("/stream")).content == b"ab"
    [(seconds, _)] = meter.of(HTTP_DURATION)
    assert seconds >= 0.05


async def test_a_failure_of_the_gateway_has_an_error(meter: RecordedMeter) -> None:
    with pytest.raises(RuntimeError):
        await client().get("/fail")
    [(_, labels)] = meter.of(HTTP_DURATION)
    assert labels["error.type"] == "RuntimeError"
