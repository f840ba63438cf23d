"""Signing in to the console by OpenID Connect, at a provider that is asked over HTTP."""

from __future__ import annotations

import html
import logging
import re
import socket
import time
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from joserfc.jwk import RSAKey
from playwright.sync_api import Page, expect
from redis.asyncio import Redis

from snakepit_bridge.exceptions import ConfigurationError
from tests.harness.browser import run_chromium
from tests.harness.openid import CLIENT_SECRET, OpenIdServer, openid_server, settings_text
from tests.harness.waiting import PATIENCE_S
from tests.integration.gateway_clients import gateway, grants
from tests.integration.test_console_access import COOKIE, NAVIGATION, csrf, visitor
from tests.integration.test_console_pages import LOOKS, problem_of, served_gateway, take_picture
from workers.gateway import Gateway, Grants
from workers.gateway.access.openid_settings import OpenIdSettings
from workers.gateway.console import openid_provider

expect.set_options(timeout=PATIENCE_S * 1_000)

START, CALLBACK = "/sign-in/oidc", "/sign-in/oidc/callback"


@pytest.fixture(scope="module")
def running_provider() -> Generator[OpenIdServer]:
    with openid_server() as running:
        yield running


@pytest.fixture
def provider(running_provider: OpenIdServer) -> OpenIdServer:
    running_provider.reset()
    return running_provider


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return f"127.0.0.1:{found.getsockname()[1]}"


def load(folder: Path, provider: OpenIdServer, url: str, **changes: str) -> OpenIdSettings:
    file = folder / "oidc.toml"
    file.write_text(settings_text(provider, url, **changes), encoding="utf-8")
    return OpenIdSettings.load(file, CLIENT_SECRET)


@pytest.fixture
async def served(redis_url: str, provider: OpenIdServer, tmp_path: Path) -> AsyncGenerator[Gateway]:
    address = free_address()
    settings = load(tmp_path, provider, f"http://{address}", label='"Example & Co"')
    async with gateway(redis_url, grants=grants(), http=address, openid=settings) as running:
        yield running


@pytest.fixture
async def browser(served: Gateway) -> AsyncGenerator[httpx.AsyncClient]:
    async with visitor(served) as client:
        yield client


async def go_to_provider(browser: httpx.AsyncClient, **query: str) -> dict[str, str]:
    """Begin a sign-in, and return what the provider is asked."""
    answer = await browser.get(START, params=query)
    assert answer.status_code == 303, answer.text
    return {name: values[-1] for name, values in parse_qs(urlsplit(answer.headers["location"]).query).items()}


async def sign_in(browser: httpx.AsyncClient, provider: OpenIdServer, **query: str) -> httpx.Response:
    """Sign in at the provider, and return what the gateway answers to whom it sent back."""
    return await browser.get(provider.authorize(await go_to_provider(browser, **query)))


async def test_a_person_signs_in_by_the_provider_with_the_grant_of_their_group(
    browser: httpx.AsyncClient, provider: OpenIdServer, redis_url: str
) -> None:
    page = await browser.get("/sign-in", params={"next": "/sessions?prefix=a"})
    assert 'href="/sign-in/oidc?next=%2Fsessions%3Fprefix%3Da">Sign in with Example &amp; Co</a>' in page.text
    before = browser.cookies[COOKIE]
    answer = await sign_in(browser, provider, next="/sessions?prefix=a")
    assert (answer.status_code, answer.headers["location"]) == (303, "/sessions?prefix=a")
    assert browser.cookies[COOKIE] != before
    assert re.search(r"HttpOnly; Path=/; SameSite=strict", answer.headers["set-cookie"])
    page = await browser.get("/sessions")
    assert "Read-only" in page.text
    assert re.search(r'title="publish, read on \*">\s*oidc:ann</p>', page.text)
    assert (await browser.get("/dead-letters")).status_code == 404
    async with Redis.from_url(redis_url, decode_responses=True) as redis:
        stored = [str(await redis.get(key)) async for key in redis.scan_iter("dspex:{g:*")]
    secrets = (browser.cookies[COOKIE], "opaque", provider.issued[-1], provider.issued[-1].split(".")[1])
    assert [[secret in text for secret in secrets] for text in stored] == [[False] * 4]
    leaving = await browser.post("/sign-out", data={"csrf": csrf(page)})
    assert (await browser.get("/sessions")).status_code == 303
    refresh = re.search(r'http-equiv="refresh" content="0; url=([^"]+)"', leaving.text)
    assert refresh
    answer = await browser.get(html.unescape(refresh[1]))
    assert (provider.ended, answer.headers["location"]) == (["ann"], f"{browser.base_url}/sign-in")


@pytest.mark.parametrize(("change", "expected"), [({"ends_sessions": False}, 303), ({"is_away": True}, 200)])
async def test_a_sign_out_is_here_alone_where_the_provider_has_none(
    browser: httpx.AsyncClient, provider: OpenIdServer, monkeypatch: pytest.MonkeyPatch, change: dict[str, bool],
    expected: int,
) -> None:  # fmt: skip
    await sign_in(browser, provider)
    for name, value in change.items():
        setattr(provider, name, value)
    monkeypatch.setattr(openid_provider, "_METADATA_LIFETIME_S", 0.0)
    answer = await browser.post("/sign-out", data={"csrf": csrf(await browser.get("/sessions"))})
    assert (answer.status_code, "may still be signed in there" in answer.text) == (expected, expected == 200)
    assert (await browser.get("/sessions")).status_code == 303
    assert provider.ended == []


async def test_groups_that_name_no_scopes_read_alone_and_the_first_group_counts(
    browser: httpx.AsyncClient, provider: OpenIdServer
) -> None:
    provider.person = {"sub": "bob", "groups": "readers"}
    await sign_in(browser, provider)
    assert 'title="read on user-*"' in (await browser.get("/sessions")).text
    provider.person = {"sub": "cem", "groups": ["readers", "strangers", "operators"]}
    await sign_in(browser, provider)
    assert 'title="publish, read on *"' in (await browser.get("/sessions")).text


def hour_ago() -> int:
    return int(time.time()) - 3_600


async def test_an_id_token_that_is_not_for_this_sign_in_is_refused(
    browser: httpx.AsyncClient, provider: OpenIdServer
) -> None:
    now = int(time.time())
    wrong: list[dict[str, Any]] = [
        {"nonce": "of another sign-in"},
        {"nonce": None},
        {"iss": "https://evil.example"},
        {"iss": None},
        {"aud": "another client"},
        {"aud": ["console", "another client"]},
        {"aud": "another client", "azp": "console"},
        {"azp": "another client"},
        {"exp": now - 3_600},
        {"exp": None},
        {"nbf": now + 3_600},
        {"sub": None},
        {"at_hash": "of another access token"},
    ]
    for changed in wrong:
        provider.changed = changed
        answer = await sign_in(browser, provider)
        assert (answer.status_code, "id token of your provider isn" in answer.text) == (401, True), changed
        assert (await browser.get("/sessions")).status_code == 303, changed
    provider.changed = {}
    assert (await sign_in(browser, provider)).status_code == 303


async def test_an_id_token_that_the_provider_has_not_signed_is_refused(
    browser: httpx.AsyncClient, provider: OpenIdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.key = RSAKey.generate_key(2048, auto_kid=True)
    assert (await sign_in(browser, provider)).status_code == 401
    provider.published.append(provider.key)  # a rotation: the keys are read anew
    assert (await sign_in(browser, provider)).status_code == 303
    page = await browser.get("/sessions")
    await browser.post("/sign-out", data={"csrf": csrf(page)})
    for forged in ("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4ifQ.", "x", 7):
        monkeypatch.setattr(provider, "_sign", lambda _, forged=forged: forged)
        assert (await sign_in(browser, provider)).status_code == 401


async def test_who_is_in_no_group_or_has_no_name_gets_nowhere(
    browser: httpx.AsyncClient, provider: OpenIdServer
) -> None:
    groups: list[Any] = [["strangers"], [], {"operators": True}, None, "", 7]
    persons = [({"sub": "ann", "groups": each}, 403, "None of your groups") for each in groups]
    persons += [
        ({"sub": name, "groups": ["operators"]}, 401, "names you by")
        for name in ("x" * 100, "ann\u202e", "ann (says: bob", " ann")
    ]
    for person, status, problem in persons:
        provider.person = person
        answer = await sign_in(browser, provider)
        assert (answer.status_code, problem in answer.text) == (status, True), person
        assert (await browser.get("/sessions")).status_code == 303, person


async def test_a_callback_is_for_the_browser_that_began_and_once(
    browser: httpx.AsyncClient, served: Gateway, provider: OpenIdServer
) -> None:
    first, second = [await go_to_provider(browser) for _ in range(2)]
    assert first["state"] != second["state"]
    link = provider.authorize(first)
    async with visitor(served) as victim:
        await victim.get("/sign-in")
        answer = await victim.get(link)
        assert (answer.status_code, "begun in this browser" in answer.text) == (401, True)
    assert (await browser.get(link)).status_code == 303
    assert (await browser.get(link)).status_code == 401
    for query in ({"error": "access_denied", "state": second["state"]}, {"code": "x", "state": ""}, {}):
        answer = await browser.get(CALLBACK, params=query)
        assert (answer.status_code, "access_denied" in answer.text) == (401, False)
    assert provider.refused == []


async def test_a_code_needs_the_verifier_and_the_redirect_that_it_was_given_for(
    browser: httpx.AsyncClient, provider: OpenIdServer
) -> None:
    query = await go_to_provider(browser)
    assert (query["code_challenge_method"], query["client_id"], "openid" in query["scope"]) == ("S256", "console", True)
    answer = await browser.get(provider.authorize({**query, "code_challenge": "of another"}))
    assert (answer.status_code, provider.refused) == (401, ["verifier"])


async def test_a_return_from_the_provider_is_requested_once_more_for_its_cookie(
    browser: httpx.AsyncClient, provider: OpenIdServer
) -> None:
    link = provider.authorize(await go_to_provider(browser))
    arrival = await browser.get(link, headers={**NAVIGATION, "sec-fetch-site": "cross-site", "cookie": ""})
    assert (arrival.status_code, "refresh" in arrival.text) == (200, True)
    assert (await browser.get(link, headers={**NAVIGATION, "sec-fetch-site": "same-origin"})).status_code == 303


async def test_a_group_or_issuer_that_is_taken_out_ends_its_sign_ins(
    browser: httpx.AsyncClient, served: Gateway, provider: OpenIdServer, redis_url: str, tmp_path: Path
) -> None:
    await sign_in(browser, provider)
    settings = load(tmp_path, provider, f"http://{served.http_address}")
    others = (
        OpenIdSettings(settings.issuer, "console", settings.url, {"readers": settings.groups["readers"]}),
        OpenIdSettings("https://other.example", "console", settings.url, settings.groups),
        None,
    )
    for other, status in ((settings, 200), *((other, 303) for other in others)):
        async with gateway(redis_url, grants=grants(), openid=other) as another, visitor(another) as client:
            client.cookies.set(COOKIE, browser.cookies[COOKIE])
            assert (await client.get("/sessions")).status_code == status


async def test_a_sign_in_never_leads_to_another_site(browser: httpx.AsyncClient, provider: OpenIdServer) -> None:
    for target in ("//evil.example", "/\\evil.example", "https://evil.example"):
        assert (await sign_in(browser, provider, next=target)).headers["location"] == "/"


async def test_a_provider_that_is_away_is_said_so_and_secrets_are_in_no_log(
    browser: httpx.AsyncClient, provider: OpenIdServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    provider.is_away = True
    answer = await browser.get(START)
    assert (answer.status_code, "can&#39;t be reached" in answer.text) == (502, True)
    provider.is_away = False
    assert (await sign_in(browser, provider)).status_code == 303
    assert (CLIENT_SECRET in caplog.text, "a+client+secret" in caplog.text) == (False, False)


async def test_without_a_provider_there_is_no_other_way_in(redis_url: str) -> None:
    async with gateway(redis_url, grants=grants()) as running, visitor(running) as client:
        assert "Sign in with" not in (await client.get("/sign-in")).text
        for path in (START, CALLBACK):
            assert (await client.get(path)).status_code == 404
    settings = OpenIdSettings("https://login.example.com", "console", "https://fleet.example.com", {})
    with pytest.raises(ConfigurationError, match="needs a tokens file"):
        async with gateway(redis_url, grants=Grants(), openid=settings):
            pass


def test_a_browser_goes_to_the_provider_and_comes_back_signed_in(
    redis_url: str, provider: OpenIdServer, tmp_path: Path
) -> None:
    """The provider is another site: a browser sends no cookie of the console with its redirect."""
    address, problems = free_address(), list[str]()
    settings = load(tmp_path, provider, f"http://{address}", label='"Example"')
    with served_gateway(redis_url, http=address, openid=settings), run_chromium() as chromium:

        def opened(look: str) -> Page:
            options: dict[str, Any] = dict(LOOKS[look])
            viewport: Any = {"width": options.pop("width", 1_280), "height": 900}
            page = chromium.new_context(viewport=viewport, base_url=f"http://{address}", **options).new_page()
            page.on("console", lambda message: problems.extend(problem_of(message)))
            page.goto("/sign-in?next=/sessions")
            expect(page.get_by_role("link", name="Sign in with Example")).to_be_visible()
            take_picture(page, f"sign-in-{look}")
            found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
            problems.extend(each["id"] for each in found if each["impact"] in ("serious", "critical"))
            return page

        page = [opened(look) for look in LOOKS][-1]
        page.get_by_role("link", name="Sign in with Example").click()
        page.get_by_role("button", name="Go on as ann").click()
        page.wait_for_url("**/sessions")
        expect(page.get_by_text("oidc:ann")).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url("**/sign-in")
        assert (provider.ended, provider.refused) == (["ann"], [])
        expect(page.get_by_role("link", name="Sign in with Example")).to_be_visible()
    assert problems == []
