"""Costs: the report is the sum of the provenances, exactly and in every dimension, whatever befell the predictions."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

import dspy
import pytest

from snakepit_bridge.cli import main
from snakepit_bridge.client.handle import Handle
from snakepit_bridge.costs.report import CostReport, CostRow
from snakepit_bridge.costs.usage import LMUsage, decode_by_profile, format_usd, sum_usage
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import LMAnswerError, LMContentRefusedError, PredictionCancelledError
from snakepit_bridge.protocol.provenance import Provenance
from tests.harness.cluster import free_ports
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, wait_until
from tests.integration.gateway_clients import connected, gateway, grants, http

PRICED = """
[profiles.smart]
model = "openai/smart"
models = ["openai/mini"]
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"
price = {{ input = 0.15, cached_input = 0.075, output = 0.6, reasoning = 0.45 }}
model_prices = {{ "openai/mini" = {{ input = 0.000001, output = 0 }} }}

[profiles.unpriced]
model = "openai/unpriced"
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"

[profiles.frail]
model = "openai/frail"
api_base = "http://127.0.0.1:9/v1"
api_key_env = "STAGE_LM_KEY"
price = {{ input = 3, output = 15 }}
fallbacks = ["smart"]
"""
USAGE = {
    "prompt_tokens": 1_003,
    "completion_tokens": 77,
    "prompt_tokens_details": {"cached_tokens": 640},
    "completion_tokens_details": {"reasoning_tokens": 33},
}
# 363 tokens at 0.15, 640 at 0.075, 44 at 0.6 and 33 at 0.45 USD per million
ITS_COST = "0.0001437"


@pytest.fixture(scope="module")
def port() -> int:
    return free_ports(1)[0]


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory, port: int) -> Generator[Stage]:
    settings: dict[str, Any] = {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT": str(port)}
    with stage(tmp_path_factory.mktemp("costs"), more_profiles=PRICED, **settings) as playing:
        for profile in ("smart", "unpriced", "frail"):
            playing.fleet.register(profile, dspy.Predict("question -> answer"), lm=profile)
        playing.fleet.register("choosing", dspy.Predict("question -> answer"), bindings={"model": "m"}, lm="smart")
        playing.fleet.register("cached", dspy.Predict("question -> answer"), lm="smart", cache={"ttl_s": 60})
        yield playing


def says(play: Stage, question: str, usage: Any, *, content: str = "[[ ## answer ## ]]\nyes", **changes: Any) -> None:
    """Have the LM answer the next question of this text with such a usage."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop", **changes}
    play.lm.say({"id": "1", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage},
                containing=question)  # fmt: skip


def ask(play: Stage, program: str, question: str = "", **options: Any) -> Handle:
    return play.fleet.submit(program, {"question": question or fresh("q")}, **options)


def await_provenances(handles: Iterable[Handle]) -> list[Provenance]:
    return [handle.get(PATIENCE_S).provenance for handle in handles]


def expected_rows(provenances: Iterable[Provenance], by: str) -> dict[Any, tuple[int, LMUsage]]:
    """Return predictions and usage by group, from the provenances alone."""
    counts, sums = Counter[Any](), dict[Any, LMUsage]()
    for provenance in provenances:
        by_profile = decode_by_profile(provenance.lm_usage)
        total = sum_usage(by_profile.values())
        if by == "profile":
            groups: Mapping[Any, LMUsage] = by_profile
        else:
            group = (provenance.session, provenance.token) if by == "revision" else getattr(provenance, by)
            groups = {group: total}
        for group, usage in groups.items():
            counts[group] += 1
            sums[group] = sums.get(group, LMUsage()) + usage
    return {group: (counts[group], usage) for group, usage in sums.items()}


def reported_rows(report: CostReport) -> dict[Any, tuple[int, LMUsage]]:
    def group(row: CostRow) -> Any:
        return (row.session, row.token) if report.by == "revision" else next(iter(row.group().values()))

    return {group(row): (row.predictions, row.usage) for row in report.rows if row.predictions}


def test_a_predictions_cost_is_exact_to_the_token(play: Stage) -> None:
    question = fresh("exact")
    says(play, question, USAGE)
    (provenance,) = await_provenances([ask(play, "smart", question)])
    assert provenance.cost_usd == ITS_COST
    assert provenance.lm_usage == {
        "smart": {
            "calls": 1,
            "unpriced_calls": 0,
            "input_tokens": 1_003,
            "cached_input_tokens": 640,
            "output_tokens": 77,
            "reasoning_tokens": 33,
            "cost_usd": ITS_COST,
        }
    }


def test_a_streamed_answer_costs_as_much(play: Stage) -> None:
    question = fresh("streamed")
    whole, streamed = await_provenances([ask(play, "smart", question), ask(play, "smart", question, stream=True)])
    assert whole.cost_usd == streamed.cost_usd != "0"
    assert whole.lm_usage == streamed.lm_usage


def test_an_unpriced_call_has_an_unknown_cost_and_a_cached_answer_none(play: Stage) -> None:
    question = fresh("cached")
    first, again, unpriced = (
        ask(play, *arguments).get(PATIENCE_S).provenance for arguments in (("cached", question),) * 2 + (("unpriced",),)
    )
    assert first.cost_usd != "0"
    assert (again.cached, again.cost_usd, again.lm_usage) == (1, "0", {})
    assert unpriced.cost_usd is None
    assert unpriced.lm_usage["unpriced"]["cost_usd"] is None
    assert unpriced.lm_usage["unpriced"]["unpriced_calls"] == 1


def test_another_model_of_a_profile_has_its_own_price(play: Stage) -> None:
    session = fresh("mini")
    play.fleet.session(session).blocking.register_variable("m", "string", "openai/mini")
    question = fresh("mini")
    says(play, question, USAGE)
    (provenance,) = await_provenances([ask(play, "choosing", question, session=session)])
    assert (provenance.model, provenance.cost_usd) == ("openai/mini", "0.000000001003")


@pytest.mark.parametrize(
    "usage",
    [
        None,
        "much",
        [],
        {},
        {"prompt_tokens": -5, "completion_tokens": -5},
        {"prompt_tokens": "5", "completion_tokens": True},
        {"prompt_tokens": 1e300, "completion_tokens": 2.5},
        {"prompt_tokens": 10**40, "completion_tokens": 10**40},
        {"prompt_tokens": 10**9, "completion_tokens": 1, "prompt_tokens_details": 3},
        {"prompt_tokens": 5, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 10**30}},
    ],
)
def test_hostile_usage_costs_no_result(play: Stage, usage: Any) -> None:
    session, question = fresh("hostile"), fresh("hostile")
    play.fleet.session(session).blocking.register_variable("m", "string", "smart")
    says(play, question, usage)
    (provenance,) = await_provenances([ask(play, "choosing", question, session=session)])
    (row,) = [row for row in play.fleet.cost("session").rows if row.session == session]
    assert row.usage == sum_usage(decode_by_profile(provenance.lm_usage).values())
    assert row.usage.cost_pico < 10**9


def test_a_usage_of_nan_costs_no_result(play: Stage) -> None:
    question = fresh("nan")
    text = json.dumps({"id": "1", "object": "chat.completion", "model": "m", "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "[[ ## answer ## ]]\nyes"}, "finish_reason": "stop"}
    ], "usage": {"prompt_tokens": float("nan"), "completion_tokens": float("inf")}})  # fmt: skip
    play.lm.say(text, containing=question)
    (provenance,) = await_provenances([ask(play, "smart", question)])
    assert provenance.cost_usd is None


def test_what_a_failed_prediction_used_stands_apart(play: Stage) -> None:
    program, refused, garbled = fresh("failing"), fresh("refused"), fresh("garbled")
    play.fleet.register(program, dspy.Predict("question -> answer"), lm="smart")
    says(play, refused, USAGE, finish_reason="content_filter")
    with pytest.raises(LMContentRefusedError):
        ask(play, program, refused).get(PATIENCE_S)
    for _ in range(2):  # DSPy asks once more, in JSON
        says(play, garbled, USAGE, content="I would rather not.")
    with pytest.raises(LMAnswerError):
        ask(play, program, garbled).get(PATIENCE_S)
    (row,) = [row for row in play.fleet.cost().rows if row.program == program]
    assert (row.predictions, row.usage, row.failed) == (0, LMUsage(), 2)
    assert (row.failed_usage.calls, row.failed_usage.cost_pico) == (3, 3 * 143_700_000)


def test_a_retry_by_redelivery_counts_on(play: Stage) -> None:
    """A call that was answered before another one failed is made again, and both are paid for."""
    program, question = fresh("twice"), fresh("twice")
    play.fleet.register(program, dspy.ChainOfThought("question -> answer"), lm="smart")
    session = fresh("redelivered")
    policy = {"in_place_s": 0.0, "backoff_s": 0.05}
    play.fleet.session(session).blocking.register_variable("dspex.retry", "string", json.dumps(policy))
    says(play, question, USAGE, content="unparsable", finish_reason="stop")
    play.lm.fail(1, containing=question)
    (provenance,) = await_provenances([ask(play, program, question, session=session)])
    assert provenance.attempt == 2
    assert provenance.lm_usage["smart"]["calls"] == 2
    assert provenance.lm_usage["smart"]["cached_input_tokens"] == 640


def test_the_report_is_the_sum_of_the_provenances_in_every_dimension(tmp_path: Path) -> None:
    with stage(tmp_path, more_profiles=PRICED, worker=False) as play:
        worker = play.start(concurrency=40)
        for profile in ("smart", "unpriced", "frail", "cached"):
            cache = {"ttl_s": 60} if profile == "cached" else None
            lm = "smart" if profile == "cached" else profile
            play.fleet.register(
                profile, dspy.Predict("question -> answer"), bindings={"temperature": "t"}, lm=lm, cache=cache
            )
        variables = {name: play.fleet.session(name).blocking for name in ("a", "b")}
        handles: list[Handle] = []
        for turn in range(3):
            for name, session in variables.items():
                session.set_variable("t", 0.1 * turn) if turn else session.register_variable("t", "float", 0.0)
                for program in ("smart", "unpriced", "frail", "cached"):
                    question = fresh("q")
                    says(play, question, USAGE | {"prompt_tokens": 1_000 + 7 * turn})
                    handles.append(ask(play, program, question, session=name, stream=program == "smart"))
            same = fresh("same")
            handles += [ask(play, "cached", same, session="a") for _ in range(5)]
            handles += play.fleet.submit_batch("smart", [{"question": fresh("b")} for _ in range(10)], session="b")
        for handle in handles:
            handle.get(PATIENCE_S)
        cancelled, killed = ask(play, "smart", hang(play), session="b"), ask(play, "smart", hang(play), session="a")
        wait_until(lambda: sum(request.status is None for request in play.lm.requests) == 2, "both to be asked")
        cancelled.cancel()
        play.lm.faults.clear()
        worker.container.kill()
        play.start()
        with pytest.raises(PredictionCancelledError):
            cancelled.get(PATIENCE_S)
        handles.append(killed)
        found = await_provenances(handles)
        assert killed.get(PATIENCE_S).provenance.attempt == 1
        assert sum(each.cached + each.shared for each in found) >= 9
        assert {name for each in found for name in each.lm_usage} == {"smart", "unpriced"}
        for by in ("program", "session", "revision", "profile"):
            report = play.fleet.cost(by)
            assert reported_rows(report) == {group: row for group, row in expected_rows(found, by).items() if row[0]}, (
                by
            )
            assert report.total.failed == 0
        total = play.fleet.cost().total
        assert total.predictions == len(found)
        assert total.usage.unpriced_calls == 6


def hang(play: Stage) -> str:
    question = fresh("hang")
    play.lm.hang(1, containing=question)
    return question


def test_the_counter_grows_with_each_paid_call(play: Stage, port: int) -> None:
    def scraped(name: str) -> float:
        with urllib.request.urlopen(f"http://localhost:{port}/metrics", timeout=PATIENCE_S) as reply:
            lines = reply.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name + "{") and program in line)

    program, question = fresh("counted"), fresh("counted")
    play.fleet.register(program, dspy.Predict("question -> answer"), lm="smart")
    says(play, question, USAGE)
    ask(play, program, question).get(PATIENCE_S)
    assert scraped("dspex_cost_total") == pytest.approx(float(ITS_COST))
    assert scraped("dspex_cost_total") == pytest.approx(float(play_cost(play, program)))


def play_cost(play: Stage, program: str) -> str:
    (row,) = [row for row in play.fleet.cost().rows if row.program == program]
    return format_usd(row.usage.cost_pico)


async def test_the_gateway_reports_what_a_token_may_see(play: Stage) -> None:
    mine, theirs = fresh("user"), fresh("other")
    for session in (mine, theirs):
        play.fleet.session(session).blocking.register_variable("m", "string", "smart")
        await ask(play, "choosing", session=session)
    await ask(play, "unpriced")  # a second profile
    async with gateway(play.url, grants=grants()) as served, connected(served.grpc_address) as client:
        whole = await client.costs.Report(pb.CostReportRequest(by="session"), metadata=client.metadata)
        assert {mine, theirs} <= {row.session for row in whole.rows}
        reader = client.with_token("reader")
        partial = await reader.costs.Report(pb.CostReportRequest(by="session"), metadata=reader.metadata)
        assert {row.session for row in partial.rows} >= {mine}
        assert all(row.session.startswith("user-") for row in partial.rows)
        assert partial.total.predictions == sum(row.predictions for row in partial.rows)
        async with http(served.http_address, "reader") as other:
            refused = await other.get("/v1/costs?by=program")
            assert refused.status_code == 403
        async with http(served.http_address) as other:
            found = (await other.get("/v1/costs?by=profile&since_s=3600&limit=1")).json()
            assert (len(found["rows"]), found["omitted"] >= 1, found["by"]) == (1, True, "profile")
            assert isinstance(found["total"]["usage"]["cost_usd"], str)
            for query in ("by=team", "since_s=-1", "since_s=1e9", "since_s=NaN", "limit=-1"):
                refused = await other.get(f"/v1/costs?{query}")
                assert refused.status_code == 400, query
                assert query.partition("=")[0] in refused.text, query


def run_command(play: Stage, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[Any, str, str]:
    """Return the exit code and the output of a command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["--redis-url", play.url, "cost", *arguments])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_the_command_shows_the_report(play: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    session, question = fresh("shown"), fresh("shown")
    play.fleet.session(session).blocking.register_variable("m", "string", "smart")
    says(play, question, USAGE)
    ask(play, "choosing", question, session=session).get(PATIENCE_S)
    ask(play, "unpriced").get(PATIENCE_S)
    code, table, _ = run_command(play, capsys, "--by", "revision", "--since", "1.5h")
    (line,) = [line for line in table.splitlines() if session in line]
    assert (code, line.split()[2:]) == (0, ["1", "1", "0", "1003", "640", "77", "33", ITS_COST, "0", "0"])
    assert "calls are unpriced: their LM profile has no price" in table
    assert [line for line in table.splitlines() if line.strip().startswith("total")]
    code, printed, _ = run_command(play, capsys, "--by", "session", "--json")
    (row,) = [row for row in json.loads(printed)["rows"] if row["session"] == session]
    assert (code, row["predictions"], row["calls"], row["cost_usd"]) == (0, 1, 1, ITS_COST)
    assert row["failed"] == {"predictions": 0, **LMUsage().encode()}


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (("--since", "soon"), 2, "'soon' is no duration; write 90m, 24h or 7d"),
        (("--since", "24"), 2, "'24' is no duration"),
        (("--since", "36d"), 1, "Costs are kept for 35 days"),
        (("--by", "team"), 2, "'team' is not one of"),
    ],
)
def test_the_command_refuses_what_it_cannot_report(
    play: Stage, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, problem: str
) -> None:
    ended, _, message = run_command(play, capsys, *arguments)
    assert (ended, problem in " ".join(message.replace("│", " ").split())) == (code, True), message
