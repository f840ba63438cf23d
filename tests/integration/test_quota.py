"""The limits against a provider that counts a sliding window by a log: the benchmark's small form."""

from __future__ import annotations

import pytest

from benchmarks.limits import Shape, run
from tests.harness.preloaded import start_preloaded
from tests.harness.waiting import Stopwatch


def test_the_fleet_keeps_to_a_quota_uses_it_up_and_shares_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.dev.demo.parts.Child", start_preloaded)
    watch = Stopwatch()
    figures = run(Shape(workers=2, concurrency=8, sessions=5, quota=150, window_s=15, measure_s=8))
    # So few requests that a single one counts, on a machine that may be busy with other things.
    assert figures["rate_429"] <= 0.01
    assert figures["utilisation"] >= 0.9
    assert figures["jain"] >= 0.95
    # A limit that nobody heard of would not hold in the three seconds in which it is looked for.
    assert figures["change_s"] <= min(1.0 + watch.queued_s, 2.5)
