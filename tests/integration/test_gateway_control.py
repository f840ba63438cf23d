"""Control variables need a scope of their own, and the author of a change is the grant of the token."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import grpc.aio
import pytest

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import ConfigurationError
from tests.integration.gateway_clients import Client, connected, gateway, refusal
from workers.gateway import Gateway, Grants, hash_token

SCOPES = {"operator": "publish read control", "app": "publish read"}
LIMIT = "dspex.limits.requests_per_min"


def two_grants() -> Grants:
    return Grants.parse(
        "\n".join(
            f"[tokens.{name}]\nsha256 = '{hash_token(name)}'\nscopes = {scopes.split()}\nsessions = ['*']\n"
            for name, scopes in SCOPES.items()
        )
    )


@pytest.fixture
async def served(redis_url: str) -> AsyncGenerator[Gateway]:
    async with gateway(redis_url, grants=two_grants()) as running:
        yield running


@pytest.fixture
async def operator(served: Gateway) -> AsyncGenerator[Client]:
    async with connected(served.grpc_address, "operator") as connected_client:
        yield connected_client


async def publish(client: Client, session: str, values: dict[str, Any], **how: Any) -> str:
    changes = [pb.Change(name=name, value_json=json.dumps(value).encode()) for name, value in values.items()]
    request = pb.PublishRequest(session=session, changes=changes, **how)
    return (await client.variables.Publish(request, metadata=client.metadata)).token


async def refused(call: Any) -> tuple[str, str, list[Any]]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return refusal(error.value)


DENIED = ("PERMISSION_DENIED", "NotGrantedError")


async def test_a_publisher_can_not_raise_its_own_limits(operator: Client) -> None:
    app = operator.with_token("app")
    await publish(operator, "s", {LIMIT: 5, "n": 1})
    for name in (LIMIT, "dspex.retry", "dspex.on_refused", "dspex.anything"):
        assert (await refused(publish(app, "s", {"n": 2, name: 1})))[:2] == DENIED
        deletion = pb.PublishRequest(session="s", changes=[pb.Change(name=name, delete=True)])
        assert (await refused(app.variables.Publish(deletion, metadata=app.metadata)))[:2] == DENIED
    assert (await refused(publish(app, "dspex.fleet", {"n": 1})))[:2] == DENIED
    assert await operator.values("s") == {LIMIT: 5, "n": 1}


async def test_replace_and_rollback_do_not_change_control_variables(operator: Client) -> None:
    app = operator.with_token("app")
    before = await publish(operator, "s", {"n": 1})
    await publish(operator, "s", {LIMIT: 5, "n": 2, "gone": 0})
    await publish(app, "s", {"n": 3}, replace=True)
    assert await operator.values("s") == {LIMIT: 5, "n": 3}
    await app.variables.Rollback(pb.RollbackRequest(session="s", to=before), metadata=app.metadata)
    assert await operator.values("s") == {LIMIT: 5, "n": 1}
    await operator.variables.Rollback(pb.RollbackRequest(session="s", to=before), metadata=operator.metadata)
    assert await operator.values("s") == {"n": 1}


async def test_the_author_is_the_grant_followed_by_what_the_client_declares(operator: Client) -> None:
    app = operator.with_token("app")
    declared = ["", "operator", "app", "x) operator", "operator (says: x)"]
    for number, author in enumerate(declared):
        await publish(app, "s", {"n": number}, author=author)
    first = (await operator.get("s")).token
    await publish(app, "s", {"n": 99})
    await app.variables.Rollback(pb.RollbackRequest(session="s", to=first, author="operator"), metadata=app.metadata)
    history = await operator.variables.History(pb.HistoryRequest(session="s"), metadata=operator.metadata)
    authors = [revision.author for revision in reversed(history.revisions)]
    expected = ["app" if author in ("", "app") else f"app (says: {author})" for author in declared]
    assert authors == [*expected, "app", "app (says: operator)"]


def test_a_grant_name_can_not_imitate_a_declared_author() -> None:
    with pytest.raises(ConfigurationError, match="says"):
        Grants.parse(f"[tokens.'a (says: b)']\nsha256 = '{hash_token('a')}'\nscopes = ['read']\nsessions = ['*']\n")
