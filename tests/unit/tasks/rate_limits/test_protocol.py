"""Without limits every call goes ahead at once."""

from __future__ import annotations

from typing import Any

from tasks.rate_limits.protocol import Estimate, Permit, RateLimiter, Unlimited, Used


async def test_without_limits_each_call_is_granted_at_once_and_nothing_is_remembered() -> None:
    nobody: Any = None
    admission: RateLimiter = Unlimited()
    permit = await admission.before_start(nobody, "demo", Estimate(10, "inputs"))
    assert permit == await admission.admit(nobody, "demo", Estimate(10)) == Permit("demo")
    await admission.settle(Permit("demo"), Used(1, 1))
    await admission.give_back(Permit("demo"))
    await admission.pause("demo", 5)
