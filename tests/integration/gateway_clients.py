"""Shared by the gateway's tests: a gateway on the test's event loop, and plain gRPC and HTTP clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from google.rpc.status_pb2 import Status

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2_grpc as rpc
from tests.harness.waiting import PATIENCE_S
from workers.gateway import Gateway, GatewaySettings, Grants, hash_token

TOKENS = {
    "all": ("publish predict read admin content", "*"),
    "publisher": ("publish read", "user-*"),
    "reader": ("read", "user-*"),
    "predictor": ("predict", "user-* default"),
    "releaser": ("release", "user-*"),
    "administrator of some": ("admin", "user-*"),
    "operator": ("publish read release control", "*"),
    "other": ("publish predict read", "other-*"),
}


def grants(**limits: float) -> Grants:
    """Return the grants of the tests, whose tokens equal their names, with common limits."""
    tables = [
        f"[tokens.'{name}']\nsha256 = '{hash_token(name)}'\nscopes = {scopes.split()}\nsessions = {sessions.split()}\n"
        + "".join(f"{limit} = {value}\n" for limit, value in limits.items())
        for name, (scopes, sessions) in TOKENS.items()
    ]
    return Grants.parse("\n".join(tables))


@asynccontextmanager
async def gateway(redis_url: str, **settings: Any) -> AsyncGenerator[Gateway]:
    """A gateway that listens on free ports."""
    given: dict[str, Any] = {"grpc": "127.0.0.1:0", "http": "127.0.0.1:0", "drain_s": 3.0, **settings}
    served = Gateway(GatewaySettings(redis_url, **given))
    await served.start()
    try:
        yield served
    finally:
        await served.stop()


class Client:
    """A gRPC client with one token."""

    def __init__(self, channel: grpc.aio.Channel, token: str | None = "all") -> None:
        self.channel = channel
        self.metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self.variables = rpc.VariablesStub(channel)
        self.predictions = rpc.PredictionsStub(channel)
        self.programs = rpc.ProgramsStub(channel)
        self.costs = rpc.CostsStub(channel)
        self.scores = rpc.ScoresStub(channel)
        self.rollouts = rpc.RolloutsStub(channel)
        self.experiments = rpc.ExperimentsStub(channel)
        self.sessions = rpc.SessionsStub(channel)
        self.judges = rpc.JudgesStub(channel)
        self.dead_letters = rpc.DeadLettersStub(channel)
        self.audit = rpc.AuditStub(channel)
        self.protections = rpc.ProtectionsStub(channel)
        self.approvals = rpc.ApprovalsStub(channel)
        self.datasets = rpc.DatasetsStub(channel)
        self.recorders = rpc.RecordersStub(channel)
        self.evaluations = rpc.EvaluationsStub(channel)
        self.optimizations = rpc.OptimizationsStub(channel)
        self.jobs = rpc.JobsStub(channel)
        self.status = rpc.StatusStub(channel)

    def with_token(self, token: str | None) -> Client:
        return Client(self.channel, token)

    async def publish(self, session: str, **values: Any) -> str:
        changes = [pb.Change(name=name, value_json=json.dumps(value).encode()) for name, value in values.items()]
        request = pb.PublishRequest(session=session, changes=changes)
        return (await self.variables.Publish(request, metadata=self.metadata)).token

    async def get(self, session: str, **options: Any) -> pb.Snapshot:
        return await self.variables.Get(pb.GetVariablesRequest(session=session, **options), metadata=self.metadata)

    async def values(self, session: str, **options: Any) -> dict[str, Any]:
        found = await self.get(session, **options)
        return {variable.name: json.loads(variable.value_json) for variable in found.variables}

    async def submit(self, program: str, session: str, inputs: Any, **options: Any) -> str:
        request = pb.SubmitRequest(program=program, session=session, inputs_json=json.dumps(inputs).encode(), **options)
        return (await self.predictions.Submit(request, metadata=self.metadata)).id


@asynccontextmanager
async def connected(address: str | None, token: str | None = "all") -> AsyncGenerator[Client]:
    """A gRPC client of a gateway."""
    assert address is not None
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield Client(channel, token)


def http(address: str | None, token: str | None = "all") -> httpx.AsyncClient:
    """An HTTP client of a gateway."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return httpx.AsyncClient(base_url=f"http://{address}", headers=headers, timeout=20)


def refusal(error: grpc.aio.AioRpcError) -> tuple[str, str, list[Any]]:
    """Return status, error class and fields from the details of a failed call."""
    packed = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    status = Status.FromString(packed if isinstance(packed, bytes) else packed.encode())
    found = pb.Error()
    assert status.details[0].Unpack(found)
    assert status.message == found.message == error.details()
    return error.code().name, found.kind, json.loads(found.fields_json)


async def refused(call: Any) -> tuple[str, str, list[Any]]:
    """Return status, error class and fields of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return refusal(error.value)


async def first(stream: Any, count: int) -> list[Any]:
    """Return the first messages of a stream."""
    found = []
    async with asyncio.timeout(PATIENCE_S):
        async for message in stream:
            found.append(message)
            if len(found) == count:
                return found
    raise AssertionError(f"the stream ended after {len(found)} messages")
