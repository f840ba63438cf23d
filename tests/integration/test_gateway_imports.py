"""A gateway registers programs that bind the targets of the modules that it is told to import."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import grpc
import pytest

from snakepit_bridge.dspy_integration import unregister_target
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from tests.integration.gateway_clients import connected, gateway, grants

CODE = """
from snakepit_bridge.dspy_integration import register_target

@register_target("gateway_tone")
def set_tone(predictor, value):
    predictor.signature = predictor.signature.with_instructions(value)
"""
SPEC = {"module": "Predict", "signature": "question -> answer", "bindings": {"gateway_tone": "tone"}}


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[str]:
    """A user's module that registers a target."""
    name = "acme_gateway_targets"
    (tmp_path / f"{name}.py").write_text(CODE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)
    unregister_target("gateway_tone")


async def register(redis_url: str, **settings: Any) -> pb.Program:
    request = pb.RegisterRequest(name="qa", spec_json=json.dumps(SPEC).encode())
    async with (
        gateway(redis_url, grants=grants(), **settings) as running,
        connected(running.grpc_address) as client,
    ):
        return await client.programs.Register(request, metadata=client.metadata)


async def test_a_program_that_binds_a_target_of_an_imported_module_is_registered(redis_url: str, acme: str) -> None:
    registered = await register(redis_url, allowed_packages=(acme,), imports=(acme,))
    assert (registered.name, registered.version) == ("qa", 1)


async def test_without_the_import_the_error_says_how_to_have_it(redis_url: str, acme: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="import the module that registers it.*DSPEX_IMPORTS"):
        await register(redis_url, allowed_packages=(acme,))


async def test_a_module_that_cannot_be_imported_is_named(redis_url: str, acme: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="DSPEX_IMPORTS names a module that can't be used: 'acme") as refused:
        await register(redis_url, imports=(acme,))
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
