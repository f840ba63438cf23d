"""The benchmarks that measure a whole fleet, in their short form: they run, and what they find is plausible."""

from __future__ import annotations

import httpx
import pytest

from benchmarks import _parts, abuse, bulk, evaluate, latency, scale, telemetry, throughput
from tests.harness.preloaded import start_preloaded
from tests.harness.waiting import Stopwatch


@pytest.fixture(autouse=True)
def preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the fleet's workers, whose start isn't what is measured; its peers load nothing of the fleet."""
    for module in ("workers.dev.demo.parts", "benchmarks._abuse"):
        monkeypatch.setattr(f"{module}.Child", start_preloaded)


def test_a_bench_is_a_fleet_on_parts_of_its_own() -> None:
    with _parts.bench() as bench:
        assert bench.fleet.programs() == []
        assert httpx.get(f"{bench.lm.url}/models", timeout=30).is_success
        assert _parts.cpu_s(bench.lm.pid) > 0
        folder = bench.folder
        assert folder.is_dir()
    assert not folder.exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{bench.lm.url}/models", timeout=5)


@pytest.mark.timeout(400)
def test_throughput_compares_the_fleet_with_the_bare_loop_and_with_plain_celery() -> None:
    watch = Stopwatch()
    figures = throughput.run(quick=True)
    assert list(figures) == ["0.2"]
    assert set(figures["0.2"]) == {"bare", "asyncio", "batch", "celery_task", "peer_prefork", "peer_threads"}
    for measured in figures["0.2"].values():
        assert set(measured) == {"per_s", "cpu_ms", "rss_mb", "p99_ms"}
        assert all(figure > 0 for figure in measured.values())
        assert measured["p99_ms"] >= 200
    # Where other processes take the CPUs, the loop, which needs more of them, loses more.
    least = 5 if watch.queued_s < 0.3 * watch.passed_s else 1
    assert figures["0.2"]["asyncio"]["per_s"] > least * figures["0.2"]["peer_prefork"]["per_s"]


@pytest.mark.timeout(400)
def test_a_bulk_run_is_resumed_exactly_after_a_kill() -> None:
    figures = bulk.run(quick=True)
    assert figures["resumed_exactly"]
    assert figures["lines"] == 2_000
    assert 20 < figures["client_rss_mb"] < 400
    assert 0 < figures["redis_peak_mb"] < 50
    assert figures["per_s"] > 0
    assert all(figure > 0 for figure in figures["redis"].values())


@pytest.mark.timeout(400)
def test_scale_measures_more_workers_and_longer_queues() -> None:
    watch = Stopwatch()
    figures = scale.run(quick=True)
    assert list(figures["workers"]) == ["1", "2"]
    # Where other processes take the CPUs, two workers may get no more of them than one.
    least = 1.3 if watch.queued_s < 0.3 * watch.passed_s else 0.5
    assert figures["workers"]["2"]["per_s"] > least * figures["workers"]["1"]["per_s"]
    assert list(figures["queued"]) == ["100", "1000"]
    assert all(cost["cpu_ms"] > 0 for cost in figures["queued"].values())
    # What a message takes doesn't depend on the machine.
    assert 0 < figures["queued"]["1000"]["redis_bytes"] <= 1_000


@pytest.mark.timeout(400)
def test_latency_measures_the_way_from_submit_to_start_beside_bare_round_trips() -> None:
    figures = latency.run(quick=True)
    assert set(figures) == {"100"}
    assert set(figures["100"]) == {"start_p50_ms", "start_p99_ms", "redis_rtt_p99_ms"}
    assert 0 < figures["100"]["start_p50_ms"] <= figures["100"]["start_p99_ms"]
    assert figures["100"]["redis_rtt_p99_ms"] > 0


@pytest.mark.timeout(400)
def test_telemetry_compares_workers_that_record_more_and_more() -> None:
    figures = telemetry.run(quick=True)
    assert set(figures) == {"off_ratio", "metrics_ratio", "traces_ratio", "unrecorded_cpu_ms"}
    assert all(figure > 0 for figure in figures.values())
    # Eight spans cost more than none, however noisy the machine is.
    assert figures["traces_ratio"] > 1


@pytest.mark.timeout(400)
def test_abuse_costs_no_worker_no_end_and_no_secret() -> None:
    """The short form of the abuse benchmark: everything at once on each pool, and nothing comes of it."""
    figures = abuse.run(quick=True)
    assert set(figures["pools"]) == {"asyncio", "threads", "prefork"}
    assert figures["tasks"] >= 900
    bad = ("worker_deaths", "unended", "double_ends", "leaked_secrets", "leaked_keys")
    assert {name: figures[name] for name in bad} == dict.fromkeys(bad, 0), figures
    assert all(measured["unnamed_ends"] == {} for measured in figures["pools"].values()), figures
    assert figures["p99_neighbour_ms"] > 0


@pytest.mark.timeout(400)
def test_evaluate_compares_the_fleet_with_dspy_on_threads() -> None:
    figures = evaluate.run(quick=True)
    evaluated = {"dspy_evaluate_8_threads_s", "dspy_evaluate_100_threads_s", "fleet_s"}
    assert set(figures) == {*evaluated, "mipro_local_s", "mipro_fleet_s"}
    # 60 examples at 0.5 s: eight at a time take eight rounds, and nobody is faster than the LM.
    assert figures["dspy_evaluate_8_threads_s"] >= 4
    assert figures["fleet_s"] >= 0.5
