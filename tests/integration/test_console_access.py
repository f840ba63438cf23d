"""Who gets into the console: sign-ins, cookies, forged forms and links, and what each token may see there."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from tests.harness.broker import channel, put, take
from tests.integration.gateway_clients import connected, gateway, grants
from workers.gateway import Gateway, Grants, hash_token

COOKIE = "dspex_console"
NAVIGATION = {"sec-fetch-mode": "navigate", "accept": "text/html"}


@pytest.fixture
async def served(redis_url: str) -> AsyncGenerator[Gateway]:
    async with gateway(redis_url, grants=grants()) as running:
        yield running


@pytest.fixture
async def browser(served: Gateway) -> AsyncGenerator[httpx.AsyncClient]:
    async with visitor(served) as client:
        yield client


def visitor(served: Gateway) -> httpx.AsyncClient:
    """A client that keeps cookies, as a browser does, and has no token."""
    return httpx.AsyncClient(base_url=f"http://{served.http_address}", timeout=20)


def csrf(page: httpx.Response) -> str:
    found = re.search(r'name="csrf" (?:content|value)="([0-9a-f]{64})"', page.text)
    assert found, page.text
    return found[1]


async def sign_in(browser: httpx.AsyncClient, token: str, *, changes: bool = False) -> httpx.Response:
    page = await browser.get("/sign-in")
    answer = await browser.post("/sign-in", data={"token": token, "csrf": csrf(page)})
    if changes:
        page = await browser.get("/sessions")
        await browser.post("/changes", data={"allow": "yes", "csrf": csrf(page)})
    return answer


@pytest.fixture
def dead_id(redis_url: str) -> str:
    """A message that a worker rejected."""
    with channel(redis_url) as ours:
        put(ours, 1, headers={"task": "shop.unknown", "id": "task-1"})
        message = take(ours)
        message.reject(requeue=False)
        return message.delivery_tag


async def test_pages_send_a_stranger_to_the_sign_in_and_back(browser: httpx.AsyncClient) -> None:
    answer = await browser.get("/session?name=user-1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?next=%2Fsession%3Fname%3Duser-1")
    page = await browser.get(answer.headers["location"])
    done = await browser.post(answer.headers["location"], data={"token": "reader", "csrf": csrf(page)})
    assert (done.status_code, done.headers["location"]) == (303, "/session?name=user-1")


@pytest.mark.parametrize(
    "target", ["//evil.example", "/\\evil.example", "https://evil.example", "/\t/evil.example", "x"]
)
async def test_a_sign_in_never_leads_to_another_site(browser: httpx.AsyncClient, target: str) -> None:
    page = await browser.get("/sign-in")
    answer = await browser.post("/sign-in", params={"next": target}, data={"token": "reader", "csrf": csrf(page)})
    assert answer.headers["location"] == "/"


async def test_a_sign_in_gets_a_new_id_so_that_a_planted_one_is_of_no_use(
    served: Gateway, browser: httpx.AsyncClient
) -> None:
    await browser.get("/sign-in")
    planted = browser.cookies[COOKIE]
    answer = await sign_in(browser, "reader")
    cookie = answer.headers["set-cookie"]
    assert browser.cookies[COOKIE] != planted
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    async with visitor(served) as attacker:
        attacker.cookies.set(COOKIE, planted)
        assert (await attacker.get("/sessions")).status_code == 303
    assert (await browser.get("/sessions")).status_code == 200


async def test_an_unknown_token_signs_nobody_in(browser: httpx.AsyncClient) -> None:
    answer = await sign_in(browser, "guessed")
    assert answer.status_code == 401
    assert "doesn&#39;t know the token" in answer.text
    assert "guessed" not in answer.text
    assert (await browser.get("/sessions")).status_code == 303


async def test_redis_holds_neither_the_id_nor_the_token(browser: httpx.AsyncClient, redis_url: str) -> None:
    await sign_in(browser, "all", changes=True)
    async with Redis.from_url(redis_url) as client:
        (key,) = [key async for key in client.scan_iter("*:sign-in")]
        record = (await client.execute_command("GET", key)) or b""
        assert 0 < await client.ttl(key) <= 12 * 3600
    assert browser.cookies[COOKIE].encode() not in key + record
    assert hash_token("all").encode() in record
    assert b'"all"' not in record


async def test_signing_out_holds_at_every_gateway_of_the_fleet(
    served: Gateway, browser: httpx.AsyncClient, redis_url: str
) -> None:
    await sign_in(browser, "reader")
    async with gateway(redis_url, grants=grants()) as second, visitor(second) as same:
        same.cookies.set(COOKIE, browser.cookies[COOKIE])
        page = await same.get("/sessions")
        assert page.status_code == 200
        kept = same.cookies[COOKIE]
        await browser.post("/sign-out", data={"csrf": csrf(page)})
        same.cookies.set(COOKIE, kept)
        assert (await same.get("/sessions")).status_code == 303


async def test_a_token_that_is_taken_back_ends_its_sign_ins(browser: httpx.AsyncClient, redis_url: str) -> None:
    await sign_in(browser, "reader")
    left = Grants.parse(f"[tokens.left]\nsha256 = '{hash_token('left')}'\nscopes = ['read']\nsessions = ['*']")
    async with gateway(redis_url, grants=left) as later, visitor(later) as same:
        same.cookies.set(COOKIE, browser.cookies[COOKIE])
        assert (await same.get("/sessions")).status_code == 303


async def test_a_form_without_the_visitors_own_token_changes_nothing(
    served: Gateway, browser: httpx.AsyncClient, dead_id: str
) -> None:
    await sign_in(browser, "all", changes=True)
    async with visitor(served) as attacker:
        await sign_in(attacker, "reader")
        foreign = csrf(await attacker.get("/sessions"))
    for token in ("", "x", "é", foreign):
        answer = await browser.post("/dead/retry", data={"id": dead_id, "csrf": token})
        assert (answer.status_code, "out of date" in answer.text) == (403, True)
    for kind in ("text/plain", "application/json", "multipart/form-data; boundary=x"):
        body = f"id={dead_id}&csrf={csrf(await browser.get('/dead'))}"
        answer = await browser.post("/dead/retry", content=body, headers={"content-type": kind})
        assert answer.status_code == 400
    assert dead_id in (await browser.get("/dead")).text


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"host": "evil.example"},
    ],
    ids=str,
)
async def test_a_page_of_another_site_can_neither_send_forms_nor_read(
    browser: httpx.AsyncClient, dead_id: str, headers: dict[str, str]
) -> None:
    await sign_in(browser, "all", changes=True)
    token = csrf(await browser.get("/dead"))
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/dead/retry", {"data": {"id": dead_id, "csrf": token}}),
        ("POST", "/sign-in", {"data": {"token": "reader", "csrf": token}}),
        ("GET", "/dead", {}),
    ]
    for method, path, how in requests:
        answer = await browser.request(method, path, headers=headers, **how)
        assert answer.status_code == 403, path
        assert dead_id not in answer.text
        assert "set-cookie" not in answer.headers
    assert dead_id in (await browser.get("/dead")).text


async def test_forms_name_the_gateway_itself_as_their_origin(browser: httpx.AsyncClient, dead_id: str) -> None:
    await sign_in(browser, "all", changes=True)
    form = {"id": dead_id, "csrf": csrf(await browser.get("/dead"))}
    own = {"origin": str(browser.base_url).rstrip("/"), "sec-fetch-site": "same-origin"}
    answer = await browser.post("/dead/retry", data=form, headers=own)
    assert (answer.status_code, answer.headers["location"]) == (303, "/dead?done=retried")


async def test_a_link_of_another_site_leads_to_a_page_that_opens_itself_again(browser: httpx.AsyncClient) -> None:
    await sign_in(browser, "reader")
    answer = await browser.get("/sessions", headers={**NAVIGATION, "sec-fetch-site": "cross-site"})
    assert (answer.status_code, 'http-equiv="refresh"' in answer.text) == (200, True)
    assert "set-cookie" not in answer.headers
    assert csrf(await browser.get("/sessions", headers={**NAVIGATION, "sec-fetch-site": "same-origin"}))


async def test_the_console_is_read_only_until_changes_are_allowed(browser: httpx.AsyncClient, dead_id: str) -> None:
    await sign_in(browser, "all")
    page = await browser.get("/dead/message", params={"id": dead_id})
    assert "Drop" not in page.text
    answer = await browser.post("/dead/retry", data={"id": dead_id, "csrf": csrf(page)})
    assert (answer.status_code, "read-only" in answer.text) == (403, True)
    await browser.post("/changes", data={"allow": "yes", "csrf": csrf(page)})
    assert "Drop" in (await browser.get("/dead/message", params={"id": dead_id})).text
    answer = await browser.post("/dead/drop", data={"id": dead_id, "confirm": "another", "csrf": csrf(page)})
    assert answer.status_code == 400
    assert dead_id in (await browser.get("/dead")).text
    await browser.post("/dead/drop", data={"id": dead_id, "confirm": dead_id, "csrf": csrf(page)})
    assert dead_id not in (await browser.get("/dead")).text


async def test_what_a_token_may_not_see_is_not_there(served: Gateway, browser: httpx.AsyncClient, dead_id: str) -> None:
    async with connected(served.grpc_address) as client:
        await client.publish("user-1", secret="of users")
        await client.publish("other-1", secret="of others")
    await sign_in(browser, "reader")
    page = (await browser.get("/sessions")).text
    assert ("user-1" in page, "other-1" in page, "Dead letters" in page) == (True, False, False)
    assert (await browser.get("/dead")).status_code == 404
    for path in ("/session?name=other-1", "/session/value?name=other-1&variable=secret"):
        answer = await browser.get(path)
        assert (answer.status_code, "of others" in answer.text) == (403, False)
    assert (await browser.get("/nothing", headers=NAVIGATION)).status_code == 404


XSS = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", '"><svg onload=alert(1)>', "javascript:alert(1)",
    "' autofocus onfocus=alert(1) x='", "{{ 7 * 7 }}", "{% include 'layout.html.j2' %}",
    "</textarea><script>alert(1)</script>", "<!--", "]]>", "&lt;script&gt;", "\u202egnihtyna",
]  # fmt: skip


async def test_values_are_shown_as_text_whatever_they_hold(served: Gateway, browser: httpx.AsyncClient) -> None:
    async with connected(served.grpc_address) as client:
        for number, text in enumerate(XSS):
            await client.publish("user-xss", **{f"v{number}": text})
        changes = [pb.Change(name=text, value_json=b"1") for text in XSS]
        request = pb.PublishRequest(session=f"user-{XSS[0]}", changes=changes, reason=XSS[1], author=XSS[2])
        await client.variables.Publish(request, metadata=client.metadata)
    await sign_in(browser, "reader")
    for params in ({"name": "user-xss"}, {"name": f"user-{XSS[0]}"}):
        answer = await browser.get("/session", params=params)
        assert answer.status_code == 200
        assert not re.search(r"<(script(?! src=)|img src=x|svg|!--)|\son\w+=(?!alert\(1\)[^>]*&)", answer.text)
        assert "\u202e" not in answer.text
        assert "\\u202e" in answer.text
        assert "49" not in re.findall(r"<bdi>(.*?)</bdi>", answer.text)


async def test_a_large_value_is_cut_and_a_link_leads_to_the_whole(served: Gateway, browser: httpx.AsyncClient) -> None:
    async with connected(served.grpc_address) as client:
        await client.publish("user-large", text="word " * 400_000, number="NaN")
    await sign_in(browser, "reader")
    answer = await browser.get("/session", params={"name": "user-large"})
    assert len(answer.content) < 20_000
    whole = re.search(r'class="whole" href="([^"]+)">all 2,000,002 bytes', answer.text)
    assert whole
    found = await browser.get(whole[1].replace("&amp;", "&"))
    assert (found.headers["content-type"], len(found.content)) == ("text/plain; charset=utf-8", 2_000_002)
    assert "sandbox" in found.headers["content-security-policy"]


async def test_every_page_forbids_frames_inline_scripts_and_caches(browser: httpx.AsyncClient) -> None:
    await sign_in(browser, "reader")
    for path in ("/sign-in", "/sessions", "/session?name=absent", "/dead"):
        headers = (await browser.get(path)).headers
        policy = headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert (headers["x-frame-options"], headers["x-content-type-options"]) == ("DENY", "nosniff")
        assert headers["cache-control"] == "no-store"


async def test_a_gateway_without_tokens_shows_everything_read_only(redis_url: str, dead_id: str) -> None:
    async with gateway(redis_url) as served, visitor(served) as browser:
        answer = await browser.get("/dead")
        assert (answer.status_code, dead_id in answer.text) == (200, True)
        form = {"id": dead_id, "csrf": csrf(await browser.get("/dead"))}
        assert (await browser.post("/dead/retry", data=form)).status_code == 403
        await browser.post("/changes", data={"allow": "yes", "csrf": form["csrf"]})
        assert (await browser.post("/dead/retry", data=form)).status_code == 303


async def test_a_gateway_may_serve_no_console(redis_url: str) -> None:
    async with gateway(redis_url, console=False) as served, visitor(served) as browser:
        answer = await browser.get("/sessions", headers=NAVIGATION)
        assert (answer.status_code, answer.json()["error"]["kind"]) == (404, "NotFound")
