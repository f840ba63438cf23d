"""The console's pages of rollouts, programs, evaluations and predictions, on a fleet that has some of each."""

from __future__ import annotations

import asyncio
import html
import json
import os
import re
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from typing import Any

import grpc.aio
import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from redis import Redis

from snakepit_bridge.cli.main import main
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.redis.key_names import FleetKeys
from tests.harness.browser import run_chromium
from tests.harness.console_fleet import FilledFleet, filled_fleet
from tests.harness.stage import fresh
from tests.harness.waiting import PATIENCE_S
from tests.integration.gateway_clients import connected, gateway, grants
from tests.integration.test_console_access import csrf, sign_in, visitor
from tests.integration.test_console_pages import (
    CUT,
    LOOKS,
    allow_changes,
    problem_of,
    served_gateway,
    tab_to,
    take_picture,
)
from workers.gateway import Gateway

expect.set_options(timeout=PATIENCE_S * 1_000)

DANGER = re.compile(r"<(script(?! src=)|img src=x|svg onload)|\sstyle=|javascript:")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Generator[FilledFleet]:
    with filled_fleet(tmp_path_factory.mktemp("console")) as found:
        yield found


@pytest.fixture
async def served(filled: FilledFleet) -> AsyncGenerator[Gateway]:
    async with gateway(filled.play.url, grants=grants()) as running:
        yield running


@pytest.fixture
async def browser(served: Gateway) -> AsyncGenerator[httpx.AsyncClient]:
    """A visitor with every scope but control, who has allowed changes."""
    async with visitor(served) as client:
        await sign_in(client, "all", changes=True)
        yield client


async def show(browser: httpx.AsyncClient, path: str, **query: object) -> str:
    """Return the text of a page, without its markup."""
    answer = await browser.get(path, params={name: str(value) for name, value in query.items()})
    assert answer.status_code == 200, answer.text
    assert not DANGER.search(answer.text), DANGER.search(answer.text)
    text = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", answer.text)).split())
    return re.sub(r" :(?=\d)", ":", text)


async def send(browser: httpx.AsyncClient, path: str, **fields: object) -> httpx.Response:
    token = csrf(await browser.get("/sessions"))
    texts = {name: value if isinstance(value, list) else str(value) for name, value in fields.items()}
    return await browser.post(path, data={"csrf": token, **texts})


async def test_a_rollout_is_shown_with_both_arms_their_intervals_and_what_is_still_needed(
    browser: httpx.AsyncClient,
) -> None:
    assert re.search(r"session:helpdesk Running 1 30 %", await show(browser, "/rollouts"))
    text = await show(browser, "/rollout", target="session:helpdesk")
    assert re.search(r"Running Stage 1 of 2 Get the candidate 30 %", text)
    assert re.search(r"Still needed \d+ \d+", text)
    assert re.search(r"Score helpful 0\.\d+ of \d+ 0\.\d+ of \d+", text)
    assert re.search(r"What it changes temp 0\.2 1\.4", text)
    assert "livelier answers" in text
    page = (await browser.get("/rollout", params={"target": "session:helpdesk"})).text
    assert (page.count('class="plot"'), page.count('class="limit"'), page.count("<circle")) == (3, 3, 6)
    charts = [json.loads(html.unescape(text)) for text in re.findall(r'data-chart="([^"]*)"', page)]
    assert [chart["unit"] for chart in charts] == ["score", "share", "s"]
    assert all(len(chart["times"]) >= 2 and len(chart["bands"]) == 2 for chart in charts)


async def test_a_rollout_that_was_never_started_is_an_error_that_says_so(browser: httpx.AsyncClient) -> None:
    for target in ("user-1", "absent", "qa@absent", "<script>alert(1)</script>"):
        answer = await browser.get("/rollout", params={"target": target})
        assert answer.status_code in (400, 404), answer.text
        assert not DANGER.search(answer.text)


async def test_a_rollout_is_started_and_steered_with_the_target_typed(
    browser: httpx.AsyncClient, filled: FilledFleet
) -> None:
    session = fresh("user")
    filled.play.fleet.session(session).blocking.set_variables({"temp": 0.1})
    policy = '{"stages": [{"share": 0.5, "min_s": 86400}, {"share": 0.7, "min_s": 86400}]}'
    answer = await send(
        browser, "/rollout/start", target=session, values='{"temp": 0.3}', policy=policy, reason="a test"
    )
    target = f"session:{session}"
    assert answer.headers["location"] == f"/rollout?target=session%3A{session}&done=started"
    for step, expected in (("pause", "Paused"), ("resume", "(Running|New)")):
        await send(browser, "/rollout/step", target=target, step=step, reason="a pause")
        assert re.search(f"State {expected}", await show(browser, "/rollout", target=target))
    for step in ("advance", "abort"):
        unconfirmed = await send(browser, "/rollout/step", target=target, step=step, reason="why not", confirm="x")
        assert (unconfirmed.status_code, f"type {target}" in unconfirmed.text) == (400, True)
    answer = await send(browser, "/rollout/step", target=target, step="abort", reason="enough", confirm=target)
    assert answer.status_code == 303
    text = await show(browser, "/rollout", target=target)
    assert re.search(r"State Rolled back", text)
    assert "by all" in text
    for fields in ({"step": "explode"}, {"step": "pause", "reason": " "}):
        answer = await send(browser, "/rollout/step", target=target, **fields)
        assert answer.status_code == 400


async def test_an_experiment_is_started_shown_and_ended_with_its_name_typed(
    browser: httpx.AsyncClient, filled: FilledFleet
) -> None:
    session = fresh("user")
    context = filled.play.fleet.session(session).blocking
    context.set_variables({"temp": 0.1})
    context.label("calm")
    context.set_variables({"temp": 1.4})
    arms = {
        "arm_name": ["calm", "lively", ""],
        "arm_revision": ["calm", "latest", ""],
        "arm_weight": ["0.5", "0.5", ""],
    }
    fields = {"target": session, "name": "tone", "reason": "which?", "from_share": "0.25", "to_share": "1", **arms}
    for wrong in ({"arm_weight": ["0.5", "x", ""]}, {"arm_weight": ["0.5", "0.6", ""]}, {"segment": "<b>"}):
        answer = await send(browser, "/experiment/start", **{**fields, **wrong})
        assert (answer.status_code, DANGER.search(answer.text)) == (400, None)
    answer = await send(browser, "/experiment/start", **fields)
    target = f"session:{session}"
    link = f"/experiment?target=session%3A{session}&name=tone"
    assert answer.headers["location"] == f"{link}&done=experiment-started"
    assert re.search(rf"tone {target} 75 % from 25 % on calm 50 % lively 50 %", await show(browser, "/experiments"))
    assert html.escape(link) in (await browser.get("/session", params={"name": session})).text
    handles = [
        filled.play.fleet.submit("qa:1", {"question": "What is 3 times 6?"}, session=session, key=f"user-{number}")
        for number in range(40)
    ]
    for handle in handles:
        is_calm = (await handle).provenance.variables["temp"] < 1
        handle.score("helpful", 0.2 if is_calm else 0.9, scorer="ann")
    text = await show(browser, "/experiment", target=target, name="tone")
    assert re.search(r"Running Requests that take part 75 %, from 25 % on Predictions \d+ Started", text)
    assert re.search(r"calm lively Revision \S+\.1 \S+\.2 Weight 50 % 50 % Predictions \d+ \d+ Failed 0 \(0 %\) ", text)
    assert re.search(r"Score helpful 0\.2 of \d+ 0\.9 of \d+ Metrics Error rate Open", text)
    assert re.search(
        r"Score helpful (Apart .* Lively is best|Open .* more of calm and [\d,]+ more of lively would)", text
    )
    for step, kept in (("decide", {"arm": "lively"}), ("stop", {})):
        fields = {"target": target, "name": "tone", "reason": "enough", **kept}
        unconfirmed = await send(browser, f"/experiment/{step}", **fields, confirm="x")
        assert (unconfirmed.status_code, f"type tone to {step}" in unconfirmed.text) == (400, True)
    answer = await send(
        browser, "/experiment/decide", target=target, name="tone", reason="livelier", arm="lively", confirm="tone"
    )
    assert answer.headers["location"] == f"{link}&done=decided"
    text = await show(browser, "/experiment", target=target, name="tone")
    assert re.search(r"Decided Winner lively .* Decided for lively .* by all livelier", text)
    assert "End it" not in text
    assert re.search(rf"Ended lately .* tone {target} Decided livelier all", await show(browser, "/experiments"))
    for query in ({"target": target, "name": "absent"}, {"target": "absent", "name": "<script>"}):
        answer = await browser.get("/experiment", params=query)
        assert (answer.status_code, DANGER.search(answer.text)) == (404, None)


async def test_a_program_is_shown_with_versions_labels_evaluations_and_what_changed(
    browser: httpx.AsyncClient, filled: FilledFleet
) -> None:
    assert re.search(r"qa 3 candidate prod 1 \S+ summarize 1 none", await show(browser, "/programs"))
    text = await show(browser, "/program", reference="qa@prod")
    assert re.search(r"qa version 1 prod", text)
    assert re.search(r"golden:1 exact 35 % 18\.1 % to 56\.7 % 20", text)
    assert '"module": "Predict"' in text
    page = (await browser.get("/program/diff", params={"name": "qa", "before": 1, "after": 2})).text
    assert re.search(r"<del>.*Predict&#34;,</del><ins>.*ChainOfThought", page)
    spec = await browser.get("/program/spec", params={"reference": "qa:2"})
    assert (spec.headers["content-type"], "sandbox") == (
        "text/plain; charset=utf-8",
        spec.headers["content-security-policy"],
    )
    for query in ({"name": "qa", "before": "x", "after": 2}, {"name": "qa", "before": 1, "after": 99}):
        assert (await browser.get("/program/diff", params=query)).status_code in (400, 404)
    assert "No program's name begins with" in await show(browser, "/programs", prefix="<b>")


async def test_a_label_is_moved_once_the_programs_name_is_typed(
    browser: httpx.AsyncClient, filled: FilledFleet
) -> None:
    fields = {"name": "summarize", "version": 1, "label": "best", "reason": "the only one"}
    assert (await send(browser, "/program/label", **fields, confirm="")).status_code == 400
    answer = await send(browser, "/program/label", **fields, confirm="summarize")
    assert answer.headers["location"] == "/program?reference=summarize%3A1&done=labelled"
    assert re.search("summarize version 1 best", await show(browser, "/program", reference="summarize@best"))


async def test_evaluations_are_listed_shown_and_compared_by_the_examples_that_flipped(
    browser: httpx.AsyncClient, filled: FilledFleet
) -> None:
    first, second = filled.evaluations
    text = await show(browser, "/evaluations", program="qa")
    assert re.search(r"qa:2 golden:1 exact 70 % ", text)
    assert re.search(r"qa:1 golden:1 exact 35 % ", text)
    assert re.search(rf"{filled.optimization[:8]} Optimization qa Succeeded", text)
    assert "No evaluation of “absent”" in await show(browser, "/evaluations", program="absent")
    assert re.search(
        r"No evaluation is older than these .*First page", await show(browser, "/evaluations", after="1.0:0")
    )
    text = await show(browser, "/evaluation", id=first)
    assert re.search(r"Score 35 % Plausible 18\.1 % to 56\.7 % Examples 20", text)
    assert re.search(r"question What is 2 times 5\? answer 10 answer 11 Wrong", text)
    text = await show(browser, "/evaluations/compare", baseline=first, candidate=second)
    assert re.search(r"Verdict Better Difference \+35 points Plausible \+\d+ to \+\d+", text)
    assert re.search(r"What is 4 times 7\? answer 28 Wrong answer 29 Right reasoning .* answer 28", text)
    text = await show(browser, "/evaluations/compare", baseline=second, candidate=second)
    assert "No example's score differs" in text
    whole = await browser.get("/evaluation/value", params={"id": first, "at": 1, "side": "inputs", "field": "question"})
    assert (whole.text, whole.headers["content-security-policy"]) == ("What is 3 times 6?", "sandbox")
    for field in ("absent", "<b>"):
        answer = await browser.get("/evaluation/value", params={"id": first, "side": "inputs", "field": field})
        assert answer.status_code == 400
    assert (await browser.get("/evaluation", params={"id": "0" * 32})).status_code == 404


async def test_an_optimization_is_shown_with_its_trajectory(browser: httpx.AsyncClient, filled: FilledFleet) -> None:
    text = await show(browser, "/evaluations/job", id=filled.optimization)
    assert re.search(r"State Succeeded .* Optimizer BootstrapFewShotWithRandomSearch Metric exact", text)
    assert re.search(r"Best 35 % 20 0 as in the program", text)
    page = (await browser.get("/evaluations/job", params={"id": filled.optimization})).text
    assert page.count("<circle") >= 4
    assert "<polyline" in page


async def test_predictions_are_searched_and_followed(browser: httpx.AsyncClient, filled: FilledFleet) -> None:
    text = await show(browser, "/predictions", session="user-1", outcome="succeeded")
    assert (text.count("Succeeded"), "LMUnavailableError" in text) == (21, False)
    assert re.search(rf"{filled.answered[-1][:8]} .* qa:2 user-1 Succeeded question .* helpful 0\.25", text)
    assert filled.failed[:8] in await show(browser, "/predictions", outcome="failed")
    assert filled.answered[-1][:8] in await show(browser, "/predictions", score="helpful<0.3", session="user-1")
    assert re.search("helpdesk candidate Succeeded", await show(browser, "/predictions", arm="candidate"))
    page = await browser.get("/predictions", params={"session": "helpdesk"})
    assert 'data-live="/predictions/live?session=helpdesk"' in page.text
    older = re.search(r'href="(/predictions\?after=[^"]+)">Older', page.text)
    assert older
    behind = await browser.get(html.unescape(older[1]))
    assert ('data-live="' in behind.text, behind.text.count("helpdesk</bdi>")) == (False, 50)
    async with browser.stream(
        "GET", "/predictions/live?session=user-1", headers={"accept": "text/event-stream"}
    ) as events:
        lines = events.aiter_lines()
        assert await anext(lines) == "event: fragment"
        assert "data: " in await anext(lines)
    assert "No recorded prediction is found" in await show(browser, "/predictions", program="summarize")
    for query in ({"score": "<b>"}, {"version": "x"}, {"after": "x"}):
        answer = await browser.get("/predictions", params=query)
        assert (answer.status_code, DANGER.search(answer.text)) == (400, None)


async def test_a_prediction_is_shown_with_provenance_timeline_calls_steps_and_scores(
    browser: httpx.AsyncClient, filled: FilledFleet
) -> None:
    text = await show(browser, "/prediction", id=filled.answered[-1])
    assert re.search(
        r"State Succeeded Program qa:2 Session user-1 Revision \S+\.1 Model openai/demo Cost \$0\.19", text
    )
    assert re.search(r"Inputs question What is 3 times 6\? Outputs reasoning .* answer 18", text)
    assert re.search(r"Timeline .* Waited for a worker [\d.]+ m?s .* Ran [\d.]+ m?s", text)
    assert re.search(r"LM calls .* demo 1 166 0 24 0 \$0\.19", text)
    assert re.search(r"Steps predict question What is 3 times 6\? reasoning", text)
    assert re.search(r"helpful 0\.25 ann It guesses\.", text)
    whole = await browser.get(
        "/prediction/value", params={"id": filled.answered[-1], "side": "outputs", "field": "answer"}
    )
    assert (whole.text, whole.headers["content-security-policy"]) == ("18", "sandbox")
    text = await show(browser, "/prediction", id=filled.failed)
    assert re.search(r"State Failed .* LMUnavailableError The gateway can't read its result", text)
    assert ("Why is this refused?" in text, "Score it" in text) == (True, False)
    for task_id in ("absent", "", "<script>"):
        answer = await browser.get("/prediction", params={"id": task_id})
        assert (answer.status_code in (400, 404), DANGER.search(answer.text)) == (True, None)


async def test_a_predictions_calls_are_shown_with_prompt_and_answer(
    browser: httpx.AsyncClient, filled: FilledFleet
) -> None:
    text = await show(browser, "/prediction", id=filled.answered[-1])
    assert re.search(r"Prompts and answers 1 demo 166 in, 24 out · \$0\.19 · [\d.]+ m?s system Your input", text)
    assert re.search(r"user .* What is 3 times 6\? .* assistant finished by stop .* answer ## \]\] 18", text)
    failed = await show(browser, "/prediction", id=filled.failed)
    assert re.search(
        r"Prompts and answers 1 openai/demo .* LMUnavailableError .* user .* Why is this refused\?", failed
    )
    question = "<script>alert(1)</script>\u202e" + "x" * 20_000
    handle = filled.play.fleet.submit("qa:1", {"question": question}, session="user-1")
    await handle
    answer = await browser.get("/prediction", params={"id": handle.id})
    assert (DANGER.search(answer.text), "\u202e" in answer.text, len(answer.content) < 60_000) == (None, False, True)
    whole = re.search(r'href="(/prediction/lm-calls/message\?[^"]*message=1)">all 20,\d+ characters', answer.text)
    assert whole
    assert question in (await browser.get(html.unescape(whole[1]))).text
    calls = (await browser.get("/prediction/lm-calls", params={"id": handle.id})).json()
    assert [call["answer"]["finish_reason"] for call in calls] == ["stop"]
    with Redis.from_url(filled.play.url) as client:
        client.delete(FleetKeys().prediction_lm_calls(filled.answered[1]))
    text = await show(browser, "/prediction", id=filled.answered[1])
    assert re.search(r"Prompts and answers aren't kept\. Workers with DSPEX_CAPTURE_LM_CALLS=true keep", text)
    for place in ("7", "x", "-1"):
        query = {"id": handle.id, "call": "0", "message": place}
        assert (await browser.get("/prediction/lm-calls/message", params=query)).status_code == 400


async def test_prompts_need_a_scope_of_their_own(served: Gateway, filled: FilledFleet) -> None:
    async with visitor(served) as client:
        await sign_in(client, "predictor")
        text = await show(client, "/prediction", id=filled.answered[-1])
        assert (bool(re.search(r"LM calls .* demo 1 166", text)), "Prompts and answers" in text) == (True, False)
        assert (await client.get("/prediction/lm-calls", params={"id": filled.answered[-1]})).status_code == 404
    async with connected(served.grpc_address) as client:
        request = pb.ListLMCallsRequest(id=filled.answered[-1])
        found = await client.predictions.ListLMCalls(request, metadata=client.metadata)
        [call] = found.calls
        assert (found.captured, call.profile, call.requests, call.cost_usd) == (True, "demo", 1, "0.19")
        assert b"What is 3 times 6?" in call.messages_json
        with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND"):
            await client.predictions.ListLMCalls(pb.ListLMCallsRequest(id="absent"), metadata=client.metadata)
    for token in ("predictor", "other"):
        async with connected(served.grpc_address, token) as client:
            with pytest.raises(grpc.aio.AioRpcError, match="PERMISSION_DENIED"):
                await client.predictions.ListLMCalls(request, metadata=client.metadata)


async def test_the_command_shows_a_predictions_calls(filled: FilledFleet, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit):
            main(["--redis-url", filled.play.url, "lm-calls", *arguments])
        return capsys.readouterr().out

    text = run(filled.answered[-1])
    assert re.match(r"--- 1: demo \(demo\), [\d.]+ s, 166 \+ 24 tokens, \$0\.19\n\[system\]\nYour input ", text)
    assert [role for role in ("[user]", "[assistant]") if role in text] == ["[user]", "[assistant]"]
    assert re.search(r"openai/demo \(demo\), .* failed: LMUnavailableError\n", run(filled.failed))
    assert json.loads(run("--json", filled.answered[0]))["calls"][0]["profile"] == "demo"
    assert "DSPEX_CAPTURE_LM_CALLS" in run("absent")


async def test_values_are_shown_as_text_and_large_ones_are_cut(browser: httpx.AsyncClient, filled: FilledFleet) -> None:
    hostile = "<img src=x onerror=alert(1)><script>alert(2)</script>\u202e"
    question = hostile + "x" * 100_000
    handle = filled.play.fleet.submit("qa:2", {"question": question}, session="user-1")
    await handle
    for path, query in (("/prediction", {"id": handle.id}), ("/predictions", {"session": "user-1"})):
        answer = await browser.get(path, params=query)
        assert (answer.status_code, DANGER.search(answer.text)) == (200, None)
        assert "&lt;script&gt;alert(2)" in answer.text
        assert ("\u202e" in answer.text, "\\u202e" in answer.text) == (False, True)
        assert len(answer.content) < 100_000
    page = (await browser.get("/prediction", params={"id": handle.id})).text
    whole = re.search(r'href="(/prediction/value\?[^"]*side=inputs[^"]*)">all of it', page)
    assert whole
    assert (await browser.get(html.unescape(whole[1]))).text == question


async def test_a_prediction_is_made_again_beside_the_first(browser: httpx.AsyncClient, filled: FilledFleet) -> None:
    answer = await send(browser, "/prediction/replay", id=filled.answered[-1])
    assert answer.status_code == 303
    async with asyncio.timeout(PATIENCE_S):
        while "goes on" in (page := (await browser.get(answer.headers["location"])).text):
            assert "/prediction/replay/live" in page
    assert "The same" in page
    text = await show(browser, "/prediction/replay", id=filled.answered[-1], again=filled.answered[0])
    assert re.search(r"Differs in 2 of 2 outputs \. |Differs in 2 of 2 outputs\. ", text)


async def test_a_prediction_is_scored_and_cancelled(
    browser: httpx.AsyncClient, served: Gateway, filled: FilledFleet
) -> None:
    task_id = filled.answered[0]
    for name, value, shown in (("correct", "true", "true"), ("tone", "curt <b>", "curt <b>"), ("sure", "0.5", "0.5")):
        answer = await send(browser, "/prediction/score", id=task_id, name=name, value=value, comment="c")
        assert answer.headers["location"] == f"/prediction?id={task_id}&done=scored"
        assert f"{name} {shown} all c" in await show(browser, "/prediction", id=task_id)
    assert (await send(browser, "/prediction/score", id=task_id, name="sure", value="7")).status_code == 400
    with filled.play.held():
        async with connected(served.grpc_address) as client:
            waiting = await client.submit("qa", "user-1", {"question": fresh("q")})
        text = await show(browser, "/prediction", id=waiting)
        assert re.search("Cancel State Queued", text)
        assert (await send(browser, "/prediction/cancel", id=waiting)).status_code == 303
        assert "State Cancelled" in await show(browser, "/prediction", id=waiting)


async def test_what_belongs_to_all_sessions_is_not_there_for_tokens_of_some(served: Gateway) -> None:
    async with visitor(served) as client:
        await sign_in(client, "reader")
        page = (await client.get("/programs")).text
        assert ("Programs" in page, "Evaluations" in page, "Rollouts" in page) == (True, False, False)
        for path in ("/evaluations", "/rollouts", "/rollout?target=helpdesk", "/evaluations/job?id=x"):
            assert (await client.get(path)).status_code == 404
        assert (await send(client, "/program/label", name="qa", confirm="qa")).status_code in (403, 404)


async def test_pages_offer_no_step_while_the_console_is_read_only(served: Gateway) -> None:
    async with visitor(served) as client:
        await sign_in(client, "all")
        for path in ("/rollouts", "/rollout?target=session:helpdesk", "/program?reference=qa"):
            page = (await client.get(path)).text
            assert re.findall(r'method="post" action="(/(?:rollout|program)[^"]*)"', page) == []
        answer = await send(client, "/rollout/step", target="session:helpdesk", step="pause", reason="no")
        assert (answer.status_code, "read-only" in answer.text) == (403, True)


@pytest.fixture(scope="module")
def chromium() -> Generator[Browser]:
    """A browser for the last tests, after those that are coroutines."""
    with run_chromium() as running:
        yield running


@contextmanager
def opened(chromium: Browser, address: str, *, width: int = 1_280, **options: Any) -> Generator[Page]:
    """A visitor who has signed in and allowed changes; scripts that fail, and refused contents, are errors."""
    problems = list[str]()
    viewport: Any = {"width": width, "height": 900}
    with chromium.new_context(viewport=viewport, base_url=f"http://{address}", **options) as context:
        page = context.new_page()
        page.on("console", lambda message: problems.extend(problem_of(message)))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto("/sign-in#token=all")
        page.wait_for_url("**/fleet")
        allow_changes(page)
        yield page
    assert problems == []


# A theme changes nothing but colours, and axe looks at those of the dark one on the phone.
@pytest.mark.parametrize("look", LOOKS if os.environ.get("CONSOLE_SHOTS") else ["light", "phone"])
def test_every_page_is_accessible_and_fits(chromium: Browser, filled: FilledFleet, look: str) -> None:
    first, second = filled.evaluations
    pages = {
        "rollouts": "/rollouts",
        "rollout": "/rollout?target=session:helpdesk",
        "predictions": "/predictions?session=user-1",
        "no-prediction": "/predictions?program=summarize",
        "tour-prediction": f"/prediction?id={filled.answered[-1]}",
        "failed-prediction": f"/prediction?id={filled.failed}",
        "replay": f"/prediction/replay?id={filled.answered[-1]}&again={filled.answered[0]}",
        "programs": "/programs",
        "program": "/program?reference=qa:2",
        "program-diff": "/program/diff?name=qa&before=1&after=2",
        "evaluations": "/evaluations",
        "evaluation": f"/evaluation?id={first}",
        "comparison": f"/evaluations/compare?baseline={first}&candidate={second}",
        "optimization": f"/evaluations/job?id={filled.optimization}",
    }
    found, width = dict[str, list[str]](), LOOKS[look].get("width", 1_280)
    with served_gateway(filled.play.url) as address, opened(chromium, address, **LOOKS[look]) as page:
        for name, path in pages.items():
            page.goto(path)
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} overflows"
            assert page.evaluate(CUT) == [], f"{name} cuts something off"
            take_picture(page, f"{name}-{look}", full_page=True)
            if look == "dark":
                continue
            report = Axe().run(page, options={"resultTypes": ["violations"]}).response
            assert len(report["passes"]) > 5, "axe has looked at nothing"
            found[name] = [
                f"{each['id']}: {node['html'][:150]}"
                for each in report["violations"]
                if each["impact"] in ("serious", "critical")
                for node in each["nodes"]
            ]
    assert {name: problems for name, problems in found.items() if problems} == {}


def test_a_rollout_is_paused_with_the_keyboard_and_the_page_follows(chromium: Browser, filled: FilledFleet) -> None:
    session = fresh("user")
    filled.play.fleet.session(session).blocking.set_variables({"temp": 0.1})
    policy = {"stages": [{"share": 0.5, "min_s": 86_400}]}
    filled.play.fleet.rollouts.start(session, {"temp": 0.3}, policy=policy, reason="a try")
    with served_gateway(filled.play.url) as address, opened(chromium, address) as page:
        page.goto("/rollouts")
        tab_to(page, f"session:{session}")
        page.keyboard.press("Enter")
        page.wait_for_url("**/rollout?target=*")
        expect(page.get_by_text("50 %").first).to_be_visible(timeout=20_000)
        expect(page.get_by_role("button", name="Abort")).to_be_disabled()
        page.locator("#reason-pause").focus()
        page.keyboard.type("to look closer")
        page.keyboard.press("Enter")
        expect(page.get_by_text("It was done.")).to_be_visible()
        expect(page.locator(".facts .status").first).to_have_text("Paused")
        filled.play.fleet.rollouts.abort(session, author="ann", reason="it was enough")
        expect(page.locator(".facts .status").first).to_have_text("Rolled back", timeout=20_000)
        expect(page.get_by_text("it was enough").first).to_be_visible()


def test_new_predictions_appear_by_themselves_and_two_evaluations_are_chosen(
    chromium: Browser, filled: FilledFleet
) -> None:
    with served_gateway(filled.play.url) as address, opened(chromium, address) as page:
        page.goto("/predictions?session=tail")
        expect(page.get_by_text("No recorded prediction is found")).to_be_visible()
        filled.play.fleet.session("tail").blocking.set_variables({"temp": 0.1})
        filled.play.fleet.submit("qa", {"question": "What is 2 times 5?"}, session="tail").get()
        expect(page.get_by_role("row", name=re.compile("tail Succeeded"))).to_be_visible(timeout=20_000)
        page.goto("/evaluations")
        for version, side in (("qa:1", "from"), ("qa:2", "to")):
            page.get_by_role("row", name=re.compile(version)).get_by_label(side, exact=True).check()
        page.get_by_role("button", name="Compare the two chosen").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("qa:2 against qa:1")
        expect(page.get_by_text("Better", exact=True)).to_be_visible()
