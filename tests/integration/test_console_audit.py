"""The console's page of the audit trail: who changed what, by filters and from a position on."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import httpx
import pytest

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from tests.harness.waiting import eventually
from tests.integration.gateway_clients import Client, connected, gateway, grants
from tests.integration.test_console_access import sign_in, visitor
from workers.gateway import Gateway

REASON = "<b>calmer</b> & 'kinder'"


@pytest.fixture
async def served(redis_url: str) -> AsyncGenerator[Gateway]:
    async with gateway(redis_url, grants=grants()) as running:
        yield running


@pytest.fixture
async def client(served: Gateway) -> AsyncGenerator[Client]:
    async with connected(served.grpc_address) as connected_client:
        yield connected_client


async def test_the_trail_is_searched_and_paged_and_its_texts_stay_texts(served: Gateway, client: Client) -> None:
    change = pb.Change(name="tone", value_json=b'"warm"')
    request = pb.PublishRequest(session="shop", changes=[change], reason=REASON)
    await client.variables.Publish(request, metadata=client.metadata)
    for number in range(101):
        await client.publish(f"other-{number}", tone="cool")
    async with visitor(served) as browser:
        await sign_in(browser, "all")
        newest = await browser.get("/audit")
        assert newest.text.count("<tr>") == 1 + 100
        assert "session:shop" not in newest.text
        assert ">Older<" in newest.text
        older = httpx.URL(newest.text.split('href="/audit?before=')[1].split('"')[0].join(("/audit?before=", "")))
        assert "session:shop" in (await browser.get(older)).text
        found = await browser.get("/audit", params={"session": "shop", "action": "publish", "outcome": "done"})
        assert found.text.count("<tr>") == 1 + 1
        assert ("tone" in found.text, REASON in found.text, "&lt;b&gt;calmer" in found.text) == (True, False, True)
        assert "Nothing matches" in (await browser.get("/audit", params={"actor": "nobody"})).text
        assert (await browser.get("/audit", params={"before": "x"})).status_code == 400


async def test_denied_calls_and_sign_ins_are_shown(served: Gateway) -> None:
    async with visitor(served) as stranger, visitor(served) as reader, visitor(served) as browser:
        for _ in range(2):
            assert (await sign_in(stranger, "dspex_guessed")).status_code == 401
        await sign_in(reader, "reader")
        assert (await reader.get("/audit")).status_code == 404
        await sign_in(browser, "all")

        async def shown() -> str:
            return (await browser.get("/audit", params={"outcome": "denied"})).text

        async def is_shown() -> bool:
            page = await shown()
            # One entry for both sign-ins, unless the first was written before the second came.
            both = "(2 calls)" in page or page.count("Console.SignIn") == 2
            return both and "Audit.List" in page and "doesn&#39;t grant" in page

        await eventually(is_shown, "both kinds of denied calls")
        assert "dspex_guessed" not in await shown()


async def test_who_may_not_read_the_trail_has_no_such_page(served: Gateway) -> None:
    async with visitor(served) as browser:
        await sign_in(browser, "reader")
        assert (await browser.get("/audit")).status_code == 404
        assert 'href="/audit"' not in (await browser.get("/sessions")).text
