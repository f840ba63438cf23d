"""Sessions in the console: what is published by its forms, what is refused, and two people who publish at once."""

from __future__ import annotations

import asyncio
import html
import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import httpx
import pytest

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.testing.elixir.server import BridgeServer
from tests.harness.waiting import eventually
from tests.integration.gateway_clients import Client, connected, gateway, grants
from tests.integration.test_console_access import csrf, sign_in, visitor
from workers.gateway import Gateway
from workers.refresher import Refresher, RefresherSettings

SESSION = "user-1"


@pytest.fixture
async def served(redis_url: str) -> AsyncGenerator[Gateway]:
    async with gateway(redis_url, grants=grants()) as running:
        yield running


@pytest.fixture
async def client(served: Gateway) -> AsyncGenerator[Client]:
    async with connected(served.grpc_address) as connected_client:
        yield connected_client


@pytest.fixture
async def browser(served: Gateway) -> AsyncGenerator[httpx.AsyncClient]:
    async with visitor(served) as opened:
        await sign_in(opened, "all", changes=True)
        yield opened


async def form(browser: httpx.AsyncClient, name: str = SESSION) -> dict[str, Any]:
    """Return the fields of the form that publishes a session, as a browser would send them unchanged."""
    page = await browser.get("/session/publish", params={"name": name})
    assert page.status_code == 200
    fields: dict[str, Any] = {"name": name, "csrf": csrf(page), "reason": ""}
    for field in ("expected", "request_id"):
        found = re.search(rf'name="{field}" value="([^"]*)"', page.text)
        assert found
        fields[field] = found[1]
    body = page.text.split('<h2 class="first">')[0]
    for field, pattern in (
        ("variable", r'name="variable" value="([^"]*)"'), ("type", r'name="type" value="([^"]*)"'),
        ("value", r'<textarea name="value"[^>]*>\n(.*?)</textarea>'),
        ("constraints", r'<textarea name="constraints"[^>]*>\n(.*?)</textarea>'),
    ):  # fmt: skip
        fields[field] = [html.unescape(text) for text in re.findall(pattern, body, re.DOTALL)]
    return fields


def edited(fields: dict[str, Any], **values: str) -> dict[str, Any]:
    """Return a form with other values; of variables that it doesn't have yet, they are new."""
    sent = {name: list(field) if isinstance(field, list) else field for name, field in fields.items()}
    for name, text in values.items():
        if name in sent["variable"]:
            sent["value"][sent["variable"].index(name)] = text
        else:
            for field, value in (("variable", name), ("type", ""), ("value", text), ("constraints", "")):
                sent[field].append(value)
    return sent


async def test_a_form_publishes_what_was_changed_and_nothing_else(client: Client, browser: httpx.AsyncClient) -> None:
    await client.publish(SESSION, temperature=0.2, style="Be\nbrief.", list_like="[1]", count=3)
    sent = edited(await form(browser), temperature="0.7", style="Be\r\nlong.", tone="friendly")
    answer = await browser.post("/session/publish", data={**sent, "reason": "livelier"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/session?name=user-1&done=published")
    assert await client.values(SESSION) == {
        "temperature": 0.7, "style": "Be\nlong.", "list_like": "[1]", "count": 3, "tone": "friendly",
    }  # fmt: skip
    history = await client.variables.History(pb.HistoryRequest(session=SESSION), metadata=client.metadata)
    newest = history.revisions[0]
    assert (newest.author, newest.reason, {change.name for change in newest.changes}) == (
        "all", "livelier", {"temperature", "style", "tone"},
    )  # fmt: skip
    page = await browser.get(answer.headers["location"])
    assert "Published." in page.text


async def test_a_form_that_is_sent_twice_is_published_once(client: Client, browser: httpx.AsyncClient) -> None:
    await client.publish(SESSION, temperature=0.2)
    sent = edited(await form(browser), temperature="0.7")
    answers = [await browser.post("/session/publish", data=sent) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [303, 303]
    history = await client.variables.History(pb.HistoryRequest(session=SESSION), metadata=client.metadata)
    assert len(history.revisions) == 2


async def test_values_are_validated_as_they_are_typed(client: Client, browser: httpx.AsyncClient) -> None:
    change = pb.Change(name="temperature", value_json=b"0.2", constraints_json=json.dumps({"max": 1}).encode())
    await client.variables.Publish(pb.PublishRequest(session=SESSION, changes=[change]), metadata=client.metadata)
    fields = await form(browser)
    for text, problem in (("warm", "JSON"), ("7", "at most 1"), ("", "JSON"), ('"a"', "number")):
        sent = edited(fields, temperature=text)
        preview = await browser.post("/session/validate", data=sent)
        assert (preview.status_code, "data-invalid" in preview.text, problem in preview.text) == (200, True, True), text
        refused = await browser.post("/session/publish", data=sent)
        assert (refused.status_code, problem in refused.text) == (400, True)
    preview = await browser.post("/session/validate", data=edited(fields, temperature="0.9"))
    assert ("data-invalid" in preview.text, "0.9" in preview.text) == (False, True)
    assert "Nothing has been changed" in (await browser.post("/session/validate", data=fields)).text
    assert await client.values(SESSION) == {"temperature": 0.2}


async def test_not_a_number_is_a_value_like_others(client: Client, browser: httpx.AsyncClient) -> None:
    await client.publish(SESSION, temperature=0.2)
    await browser.post("/session/publish", data=edited(await form(browser), temperature="NaN"))
    assert await client.values(SESSION) == {"temperature": "NaN"}
    assert "NaN" in (await browser.get("/session", params={"name": SESSION})).text
    assert "Nothing has been changed" in (await browser.post("/session/validate", data=await form(browser))).text


async def test_of_two_who_publish_at_once_the_second_gets_the_difference(
    client: Client, browser: httpx.AsyncClient
) -> None:
    await client.publish(SESSION, temperature=0.2, model="small", style="brief")
    second = edited(await form(browser), temperature="0.9")
    await browser.post("/session/publish", data=edited(await form(browser), model="large", temperature="0.5"))
    answer = await browser.post("/session/publish", data=second)
    assert answer.status_code == 409
    conflict = answer.text.split("data-conflict")[1].split("</ul>")[0]
    assert ("large" in conflict, "0.5" in conflict, "brief" in conflict) == (True, True, False)
    assert await client.values(SESSION) == {"temperature": 0.5, "model": "large", "style": "brief"}
    expected = re.search(r'name="expected" value="([^"]*)"', answer.text)
    request_id = re.search(r'name="request_id" value="([^"]*)"', answer.text)
    assert expected
    assert request_id
    values = [
        html.unescape(text) for text in re.findall(r'<textarea name="value"[^>]*>\n(.*?)</textarea>', answer.text)
    ]
    assert values == ["large", "brief", "0.9"]
    again = {**second, "value": values[:3], "expected": expected[1], "request_id": request_id[1]}
    assert (await browser.post("/session/publish", data=again)).status_code == 303
    assert await client.values(SESSION) == {"temperature": 0.9, "model": "large", "style": "brief"}


async def test_variables_are_deleted_and_sessions_begun(client: Client, browser: httpx.AsyncClient) -> None:
    await client.publish(SESSION, temperature=0.2, model="small")
    await browser.post("/session/publish", data={**await form(browser), "delete": "model"})
    assert await client.values(SESSION) == {"temperature": 0.2}
    begun = edited(await form(browser, "tenant/new"), temperature="0.1")
    assert begun["expected"] == "0.0"
    await browser.post("/session/publish", data=begun)
    assert await client.values("tenant/new") == {"temperature": 0.1}
    assert (await browser.post("/session/publish", data={**begun, "name": "", "request_id": "x"})).status_code == 400


async def test_what_is_not_there_is_explained_where_links_lead_to_it(browser: httpx.AsyncClient) -> None:
    """The default session is there without a publish, and results are dropped while pages still name them."""
    default = await browser.get("/session", params={"name": "default"})
    assert (default.status_code, "run under it, without variables" in default.text) == (200, True)
    assert (await browser.get("/session", params={"name": "tenant/unknown"})).status_code == 404
    dropped = await browser.get("/prediction", params={"id": "0" * 32})
    assert (dropped.status_code, "or was dropped once it was read" in dropped.text) == (404, True)


async def test_a_rollback_takes_the_sessions_name_and_shows_what_it_changes(
    client: Client, browser: httpx.AsyncClient
) -> None:
    first = await client.publish(SESSION, temperature=0.2)
    await client.publish(SESSION, temperature=0.9)
    page = await browser.get("/session/rollback", params={"name": SESSION, "to": first})
    assert "0.9" in page.text
    found = re.search(r'name="expected" value="([^"]*)"', page.text)
    assert found
    sent = {"name": SESSION, "to": first, "csrf": csrf(page), "reason": "worse", "expected": found[1]}
    assert (await browser.post("/session/rollback", data=sent)).status_code == 400
    assert await client.values(SESSION) == {"temperature": 0.9}
    assert (await browser.post("/session/rollback", data={**sent, "confirm": SESSION})).status_code == 303
    assert await client.values(SESSION) == {"temperature": 0.2}


async def test_labels_are_set_and_removed(client: Client, browser: httpx.AsyncClient) -> None:
    token = await client.publish(SESSION, temperature=0.2)
    sent = {"name": SESSION, "label": "known_good", "at": token, "reason": "measured",
            "csrf": csrf(await browser.get("/session/label", params={"name": SESSION, "at": token}))}  # fmt: skip
    assert (await browser.post("/session/label", data=sent)).status_code == 303
    page = await browser.get("/session", params={"name": SESSION})
    assert "measured" in page.text
    assert (await browser.post("/session/unlabel", data=sent)).status_code == 400
    assert (await browser.post("/session/unlabel", data={**sent, "confirm": "known_good"})).status_code == 303
    labels = await client.sessions.ListLabels(pb.SessionRequest(session=SESSION), metadata=client.metadata)
    assert list(labels.labels) == []


async def test_who_may_only_read_gets_no_forms(served: Gateway, client: Client) -> None:
    await client.publish(SESSION, temperature=0.2)
    async with visitor(served) as reader:
        await sign_in(reader, "reader", changes=True)
        page = (await reader.get("/session", params={"name": SESSION})).text
        assert ("/session/publish" in page, "Roll back" in page) == (False, False)
        for path in ("/session/publish", "/session/rollback", "/session/label"):
            assert (await reader.get(path, params={"name": SESSION})).status_code == 404
        sent = {"name": SESSION, "csrf": csrf(await reader.get("/sessions")), "variable": "a", "type": "", "value": "1"}
        assert (await reader.post("/session/publish", data={**sent, "constraints": ""})).status_code == 404


async def test_a_session_below_dspex_takes_the_control_scope(served: Gateway, client: Client) -> None:
    async with visitor(served) as browser:
        await sign_in(browser, "all", changes=True)
        begun = edited(await form(browser, "dspex.judges"), x="1")
        answer = await browser.post("/session/publish", data=begun)
        assert (answer.status_code, "control" in answer.text) == (403, True)


async def test_a_session_of_elixir_is_published_there_or_refused_with_the_values_kept(redis_url: str) -> None:
    with BridgeServer() as elixir:
        elixir.begin(SESSION)
        elixir.register(SESSION, "temperature", "float", 0.5, min=0, max=2)
        settings = RefresherSettings(elixir.address, redis_url, sessions=(SESSION,), poll_s=0.05, poll_max_s=0.2)
        async with (
            following(settings),
            gateway(redis_url, grants=grants(), bridge=elixir.address) as served,
            connected(served.grpc_address) as client,
            visitor(served) as browser,
        ):
            await eventually_owned(client)
            await sign_in(browser, "all", changes=True)
            sent = edited(await form(browser), temperature="1.5")
            page = (await browser.get("/session/publish", params={"name": SESSION})).text
            assert re.search(r"elixir</bdi> owns this session", page)
            answer = await browser.post("/session/publish", data=sent)
            assert (answer.status_code, elixir.value(SESSION, "temperature")) == (303, 1.5)
            assert await client.values(SESSION) == {"temperature": 1.5}
            sent = edited(await form(browser), temperature="0.7")
            elixir.stop()
            unreachable = await browser.post("/session/publish", data=sent)
            assert (unreachable.status_code, kept(unreachable)) == (503, ["0.7"])
            assert "Whether it has the change is unknown" in unreachable.text
        async with gateway(redis_url, grants=grants()) as served, visitor(served) as browser:
            await sign_in(browser, "all", changes=True)
            refused = await browser.post("/session/publish", data=edited(await form(browser), temperature="0.7"))
            assert (refused.status_code, kept(refused)) == (409, ["0.7"])
            text = html.unescape(refused.text)
            assert f"Session '{SESSION}' is published by 'elixir', not by 'store'" in text
            assert "start the gateway with --bridge" in text


@asynccontextmanager
async def following(settings: RefresherSettings) -> AsyncGenerator[None]:
    stop = asyncio.Event()
    refresher = asyncio.create_task(Refresher(settings).run(stop))
    yield
    stop.set()
    await refresher


async def eventually_owned(client: Client) -> None:
    async def is_owned() -> bool:
        try:
            return (await client.get(SESSION)).authority == "elixir"
        except grpc.aio.AioRpcError:
            return False

    await eventually(is_owned, "the session to be followed")


def kept(page: httpx.Response) -> list[str]:
    """Return the values of the variables that a form is shown with."""
    body = page.text.split('<h2 class="first">')[0]
    return [html.unescape(text) for text in re.findall(r'<textarea name="value"[^>]*>\n(.*?)</textarea>', body)]
