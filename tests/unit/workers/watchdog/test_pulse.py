"""The turns of a loop, as the watchdog and whoever asks the worker hear of them."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.harness.waiting import eventually, wait_until
from workers.watchdog import pulse as module
from workers.watchdog.beats import SharedStatus
from workers.watchdog.pulse import Lag, Pulse


def block(seconds: float) -> None:
    time.sleep(seconds)


def child() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


def test_the_lag_is_told_by_its_share_of_turns() -> None:
    assert Lag.from_delays([0.001] * 98 + [0.5, 2.0]) == Lag(1.0, 500.0, 2_000.0)
    assert Lag.from_delays([]) == Lag(0.0, 0.0, 0.0)


async def test_a_loop_that_blocks_is_silent_and_late_and_its_process_lives_on() -> None:
    pulse, beats = Pulse(), SharedStatus()
    pulse.status = beats
    assert pulse.stalled_s == 0.0
    pulse.start(asyncio.get_running_loop(), 10.0)

    async def turned() -> int:
        return next((beat.turns for beat in beats if beat.turns > 2), 0)

    try:
        await eventually(turned, "the loop to turn")
        [before] = list(beats)
        assert (before.pid, before.limit_s) == (os.getpid(), 10.0)
        block(0.6)
        [after] = list(beats)
        assert after.turns == before.turns
        assert after.alive > before.alive
        assert pulse.stalled_s >= 0.5
        await asyncio.sleep(0.01)
        assert pulse.lag.worst_ms >= 400
    finally:
        pulse.stop()
    assert list(beats) == []


async def test_a_watchdog_that_ends_is_missed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHECK_EVERY", 1)
    pulse, beats, process = Pulse(), SharedStatus(), child()
    pulse.status, pulse.watchdog = beats, process.pid
    with caplog.at_level(logging.ERROR):
        pulse.start(asyncio.get_running_loop(), 10.0)
        try:
            await asyncio.to_thread(wait_until, lambda: any(beat.alive > 3 for beat in beats), "some looks")
            assert caplog.text == ""
            process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(wait_until, lambda: "has exited" in caplog.text, "it to be missed")
        finally:
            pulse.stop()
            process.wait()
            process.stdin.close()  # type: ignore[union-attr]


def test_holdings_are_kept_once_each() -> None:
    beats = SharedStatus()
    for name in ("a" * 12, "b" * 12, "a" * 12):
        beats.add_lease_holder(name)
    assert beats.lease_holders == ["a" * 12, "b" * 12]
