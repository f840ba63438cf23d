"""The console in a browser: each page in both themes and on a phone, by keyboard, live, and while Redis is away."""

from __future__ import annotations

import asyncio
import os
import re
import runpy
import signal
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from snakepit_bridge.testing import AskedQuestion
from snakepit_bridge.testing.lm.answers import Raw
from tests.harness.broker import channel, put
from tests.harness.browser import run_chromium
from tests.harness.containers import local_redis
from tests.harness.otlp import Collector, collector
from tests.harness.stage import Stage, echo, stage
from tests.harness.waiting import PATIENCE_S, wait_until
from tests.integration.gateway_clients import grants
from workers.dev.stand_in_lm import demo_answerer
from workers.gateway import Gateway, GatewaySettings

expect.set_options(timeout=PATIENCE_S * 1_000)

ROOT = Path(__file__).parents[2]
SHOTS = ROOT / "out" / "console"
PHONE_PX, DESKTOP_PX = 375, 1280
XSS = "<img src=x onerror=alert(1)><script>alert(2)</script>"
_DEMO = demo_answerer()
CUT = """[...document.querySelectorAll("main *")]
    .filter((each) => getComputedStyle(each).overflowX === "hidden" && each.scrollWidth > each.clientWidth + 1)
    .filter((each) => !each.closest(".visually-hidden, thead") && each.clientWidth > 1)
    .map((each) => each.textContent.slice(0, 80))"""
"""What a page cuts off at its right edge, so that nobody can read it."""

NOISE = re.compile(r"Failed to load resource: the server responded with a status of (401|404|409|503)")

pytestmark = pytest.mark.timeout(240)


@dataclass(frozen=True)
class Served:
    """A fleet with a gateway."""

    url: str
    stage: Stage
    redis_pid: int
    traces: Collector


@pytest.fixture(scope="module")
def chromium() -> Generator[Browser]:
    with run_chromium() as running:
        yield running


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    with local_redis() as redis:
        url = redis.celeryconfig["host_url"]
        folder = tmp_path_factory.mktemp("console")
        with (
            collector() as traces,
            stage(folder, url=url, answer=answer, **export_to(traces)) as playing,
            served_gateway(url, trace_url=f"{traces.url}/trace/{{trace_id}}") as address,
        ):
            fill(playing)
            runpy.run_path(str(ROOT / "examples" / "fill_console.py"))["fill"](playing.fleet, None)
            pid = redis._container.pid  # pyright: ignore[reportPrivateUsage]
            yield Served(f"http://{address}", playing, pid, traces)


def export_to(traces: Collector) -> dict[str, Any]:
    """Return the settings of a worker whose traces a collector receives."""
    return {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": traces.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }


def answer(ask: AskedQuestion) -> Mapping[str, Any] | Raw:
    """Answer as the demo's LM where a label is wanted, and else with the question."""
    return _DEMO(ask) if "label" in ask.output_names else echo(ask)


@contextmanager
def served_gateway(redis_url: str, **changes: Any) -> Generator[str]:
    """A gateway on a loop of its own, in a thread: the browser blocks this one."""
    started, addresses = threading.Event(), list[str]()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        given: dict[str, Any] = {"http": "127.0.0.1:0", "drain_s": 1.0, **changes}
        running = Gateway(GatewaySettings(redis_url, grpc=None, grants=grants(), **given))
        await running.start()
        addresses.append(str(running.http_address))
        started.set()
        await stop.wait()
        await running.stop()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert started.wait(PATIENCE_S)
        yield addresses[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(PATIENCE_S)
        loop.close()


def fill(playing: Stage) -> None:
    """Give every page something to show."""
    fleet = playing.fleet
    fleet.register("qa", dspy.Predict("question -> answer"), bindings={"temperature": "temperature"})
    shop = fleet.session("shop").blocking
    token = shop.set_variables({"temperature": 0.2, "house_style": "Answer in euros.\nBe brief."}, reason="first")
    shop.set_variables({"temperature": 0.4}, reason=XSS)
    shop.label("known_good", at=str(token))
    fleet.session("odd").blocking.set_variables(
        {XSS: XSS, "large": "word " * 4_000, "rtl": "\u202eab", "emoji": "👩\u200d👧"}
    )
    fleet.session("empty").blocking.set_variables({"a": 1})
    for _ in fleet.map("qa", [{"question": f"q{number}"} for number in range(20)], session="shop"):
        pass
    with channel(playing.url) as ours:
        put(ours, 1, headers={"task": "shop.unknown", "id": "task-1"})
    wait_until(lambda: fleet.dead_letters.count() == 1, "the dead letter")


@pytest.fixture
def open_page(chromium: Browser, served: Served) -> Generator[Callable[..., Page]]:
    """Open pages as visitors who have signed in; scripts that fail, dialogs and refused contents fail the test."""
    problems, contexts = list[str](), list[Any]()

    def opened(path: str = "/sessions", *, token: str = "all", width: int = DESKTOP_PX, **options: Any) -> Page:
        options = {"base_url": served.url, **options}
        context = chromium.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.extend(problem_of(message)))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(f"a dialog: {dialog.message}"))
        page.goto("/sign-in")
        page.get_by_label("Token of the gateway").fill(token)
        page.get_by_role("button", name="Sign in").click()
        page.goto(path)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


def problem_of(message: ConsoleMessage) -> list[str]:
    return [message.text] if message.type == "error" and not NOISE.search(message.text) else []


def allow_changes(page: Page) -> None:
    page.get_by_role("button", name=re.compile("Read-only")).click()
    expect(page.get_by_role("button", name=re.compile("Changes allowed"))).to_be_visible()


# `make shots` takes those of the tour into the documentation.
PAGES = {
    "tour-fleet": "/fleet",
    "tour-session": "/session?name=reviews",
    "tour-publish": "/session/publish?name=reviews",
    "tour-rollout": "/rollout?target=mood@prod",
    "tour-experiment": "/experiment?target=storefront&name=tone",
    "experiments": "/experiments",
    "sessions": "/sessions",
    "session": "/session?name=shop",
    "odd-session": "/session?name=odd",
    "publish": "/session/publish?name=shop",
    "ended-rollouts": "/rollouts",
    "rollback": "/session/rollback?name=shop&to=known_good",
    "label": "/session/label?name=shop&at=latest",
    "costs": "/costs?by=session",
    "dead-letters": "/dead",
    "audit": "/audit",
    "not-found": "/nothing",
    "no-session": "/sessions?prefix=zzz",
}
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"color_scheme": "dark", "width": PHONE_PX},
}


def take_picture(page: Page, name: str, **options: Any) -> None:
    """Take a picture of a page where `make shots` asks for them; one takes longer than what is tested."""
    if os.environ.get("CONSOLE_SHOTS"):
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SHOTS / f"{name}.png", **options)


@pytest.mark.parametrize("look", LOOKS)
def test_every_page_is_accessible_and_fits(open_page: Callable[..., Page], look: str) -> None:
    page, axe, found = open_page(**LOOKS[look]), Axe(), dict[str, list[str]]()
    allow_changes(page)
    width = LOOKS[look].get("width", DESKTOP_PX)
    # A theme changes nothing but colours.
    rules = {"runOnly": ["color-contrast"]} if look == "dark" else {}
    for name, path in PAGES.items():
        page.goto(path)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} overflows"
        assert page.evaluate(CUT) == [], f"{name} cuts something off"
        take_picture(page, f"{name}-{look}", full_page=True)
        report = axe.run(page, options={"resultTypes": ["violations"], **rules}).response
        assert len(report["passes"]) > (0 if rules else 5), "axe has looked at nothing"
        found[name] = [
            f"{each['id']}: {node['html'][:150]}"
            for each in report["violations"]
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]
    assert {name: problems for name, problems in found.items() if problems} == {}


def test_the_sign_in_is_accessible_and_says_what_is_wrong(chromium: Browser, served: Served) -> None:
    with chromium.new_context(base_url=served.url) as context:
        page = context.new_page()
        page.goto("/session?name=shop")
        page.get_by_label("Token of the gateway").fill("guessed")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("doesn't know the token")
        violations = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        assert [each["id"] for each in violations if each["impact"] in ("serious", "critical")] == []
        page.goto("/sign-in#token=reader")
        page.wait_for_url("**/sessions")
        assert "token" not in page.url


def test_a_session_is_found_and_published_with_the_keyboard_alone(
    open_page: Callable[..., Page], served: Served
) -> None:
    page = open_page()
    allow_changes(page)
    page.goto("/sessions")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("/")
    expect(page.get_by_label("Names that begin with")).to_be_focused()
    page.keyboard.type("sho")
    page.keyboard.press("Enter")
    page.wait_for_url("**/sessions?prefix=sho")
    tab_to(page, "shop")
    page.keyboard.press("Enter")
    page.wait_for_url("**/session?name=shop")
    tab_to(page, "Change temperature")
    page.keyboard.press("Enter")
    page.wait_for_url("**/session/publish?*")
    tab_to(page, "Value of temperature")
    page.keyboard.press("Control+A")
    page.keyboard.type("warm")
    expect(page.locator("[data-invalid]")).to_contain_text("temperature")
    expect(page.get_by_role("button", name="Publish", exact=True)).to_be_disabled()
    page.keyboard.press("Control+A")
    page.keyboard.type("0.6")
    expect(page.locator("[data-validation] ins")).to_have_text("0.6")
    expect(page.get_by_role("button", name="Publish", exact=True)).to_be_enabled()
    tab_to(page, "Publish")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Published.")).to_be_visible()
    assert served.stage.fleet.session("shop").blocking.get_variable("temperature") == 0.6
    assert "done=" not in page.url


def tab_to(page: Page, name: str) -> None:
    """Press Tab until the element of this accessible name has the focus."""
    for _ in range(80):
        page.keyboard.press("Tab")
        label = page.evaluate(
            "(e => e.getAttribute('aria-label') || (e.labels && e.labels[0] ? e.labels[0].textContent : e.textContent))"
            "(document.activeElement)"
        )
        if label.strip() == name:
            return
    raise AssertionError(f"no element named {name!r} takes the focus")


def test_what_moves_on_a_page_moves_by_itself(open_page: Callable[..., Page], served: Served) -> None:
    page = open_page("/fleet")
    process = page.get_by_role("row", name=re.compile("asyncio"))
    cell = process.get_by_role("cell").nth(2)
    before = int(cell.inner_text().replace(",", ""))
    list(served.stage.fleet.map("qa", [{"question": f"live {number}"} for number in range(7)], session="shop"))
    expect(cell).to_have_text(str(before + 7), timeout=20_000)
    assert page.locator(".chart canvas").count() == 2


SCENARIO = {
    "/rollouts": "Ended lately.*program:mood@prod.*Rolled back.*breached: score right",
    "/rollout?target=mood@prod": "Rolled back.*score right max_decrease 0.05.*Harmful.*two moods are enough",
    "/experiments": "tone.*session:storefront.*100 %.*calm.*50 %.*lively",
    "/experiment?target=storefront&name=tone": "Running.*72.*36.*36|Running.*72.*Score helpful",
    "/programs": "mood.*2.*none",
    "/program?reference=mood@prod": "mood version 1.*prod.*reviews:1.*is_right",
    "/predictions?program=mood&session=reviews": "reviews.*Succeeded",
    "/predictions?program=mood&outcome=failed": "unfinished.*VariableNotFoundError",
    "/session?name=reviews": "known_good.*a compromise.*less repetitive",
    "/dead": "storefront.unknown",
    "/audit?action=rollout": "program:mood@prod.*rolled_back.*controller.*two moods are enough",
    "/audit?action=experiment": "session:storefront.*started.*which do people like",
    "/costs": "Predictions that ended since .* where the first hour of the last 24 h begins.*mood",
}


def test_the_scenario_of_the_examples_fills_each_page(open_page: Callable[..., Page]) -> None:
    page = open_page()
    for path, expected in SCENARIO.items():
        page.goto(path)
        expect(page.locator("main")).to_have_text(re.compile(expected, re.DOTALL))
    page.goto("/rollout?target=mood@prod")
    legend = page.locator(".chart .u-legend").first
    expect(legend).to_have_text(re.compile(r"baseline(0\.\d+|1) \(0\.\d+ to (0\.\d+|1)\).*candidate0\.\d+", re.DOTALL))
    assert page.locator(".chart canvas").count() == 3
    page.goto("/evaluations?program=mood")
    for version, side in (("mood:1", "from"), ("mood:2", "to")):
        page.get_by_role("row", name=re.compile(version)).get_by_label(side, exact=True).check()
    page.get_by_role("button", name="Compare the two chosen").click()
    expect(page.get_by_text("Worse", exact=True)).to_be_visible()


def test_a_predictions_trace_is_a_click_away(open_page: Callable[..., Page], served: Served) -> None:
    handle = served.stage.fleet.submit("qa", {"question": "traced"}, session="shop")
    trace = handle.get().provenance.trace_id
    wait_until(lambda: "tasks.predict" in {span.name for span in served.traces.trace(trace)}, "the trace")
    page = open_page(f"/prediction?id={handle.id}")
    page.locator(".facts").get_by_role("link", name=trace[:8]).click()
    page.wait_for_url(f"{served.traces.url}/trace/{trace}")
    expect(page.get_by_role("listitem").filter(has_text="tasks.predict")).to_be_visible()


def test_a_page_says_that_redis_is_away_and_recovers_by_itself(open_page: Callable[..., Page], served: Served) -> None:
    with served_gateway(served.stage.url, redis_timeout_s=1.0) as address:
        live, other = (open_page(path, base_url=f"http://{address}") for path in ("/fleet", "/sessions"))
        os.kill(served.redis_pid, signal.SIGSTOP)
        try:
            expect(live.locator("[data-live-problem]")).to_contain_text("Not up to date", timeout=20_000)
            other.goto("/sessions")
            expect(other.get_by_role("heading", level=1)).to_have_text("Redis doesn't answer")
        finally:
            os.kill(served.redis_pid, signal.SIGCONT)
        expect(other.get_by_role("heading", level=1)).to_have_text("Sessions", timeout=20_000)
        expect(live.locator("[data-live-problem]")).to_be_hidden(timeout=20_000)
        for page in (live, other):
            page.close()


def test_sums_that_take_long_follow_the_page(open_page: Callable[..., Page], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.gateway.console.pages.costs._PATIENCE_S", 0.0)
    page = open_page("/costs?by=session")
    expect(page.locator("[data-load]").get_by_role("row", name=re.compile("reviews"))).to_be_visible()
    monkeypatch.setattr("workers.gateway.console.pages.audit._PATIENCE_S", 0.0)
    page.goto("/audit?session=storefront&action=experiment")
    expect(page.locator("[data-load]").get_by_role("row", name=re.compile("which do people like"))).to_be_visible()


def test_a_theme_is_chosen_and_kept(open_page: Callable[..., Page]) -> None:
    page = open_page(color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    for name in ("light", "dark"):
        page.get_by_role("button", name=re.compile("Theme")).click()
        expect(page.locator("[data-theme-name]")).to_have_text(name)
    assert page.evaluate(ground) != light
    page.goto("/dead")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    assert page.evaluate(ground) != light


def test_times_are_in_the_viewers_zone_with_the_exact_one_on_hover(open_page: Callable[..., Page]) -> None:
    page = open_page("/session?name=shop", timezone_id="Asia/Tokyo", locale="en-GB")
    shown = page.locator(".facts time")
    assert re.fullmatch(r"\d+ (s|min) ago", shown.inner_text())
    title = shown.get_attribute("title") or ""
    assert "GMT+9" in title or "Japan" in title
    assert re.search(r"\dZ$", title)
