"""Limits per grant: calls per second and open streams."""

from __future__ import annotations

import pytest

from snakepit_bridge.exceptions import ConfigurationError
from workers.gateway.access.authentication import UNRESTRICTED, Grant
from workers.gateway.access.limits import GrantLimiter
from workers.gateway.errors import TooManyError
from workers.gateway.settings import GatewayLimits


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def grant(name: str, **limits: float) -> Grant:
    return Grant(name, UNRESTRICTED.scopes, ("*",), **limits)  # pyright: ignore[reportArgumentType]


def calls_let_in(admission: GrantLimiter, who: Grant, calls: int) -> int:
    for count in range(calls):
        try:
            admission.count_call(who)
        except TooManyError:
            return count
    return calls


def test_each_grant_has_its_own_rate() -> None:
    clock = Clock()
    admission = GrantLimiter(GatewayLimits(calls_per_s=10), clock)
    assert calls_let_in(admission, grant("a"), 100) == 10
    assert calls_let_in(admission, grant("b", calls_per_s=3), 100) == 3
    clock.now += 0.5
    assert calls_let_in(admission, grant("a"), 100) == 5
    clock.now += 100
    assert calls_let_in(admission, grant("a"), 100) == 10


def test_a_rejected_call_learns_when_to_retry() -> None:
    clock = Clock()
    admission = GrantLimiter(GatewayLimits(calls_per_s=2), clock)
    calls_let_in(admission, grant("a"), 2)
    with pytest.raises(TooManyError) as turned_away:
        admission.count_call(grant("a"))
    clock.now += turned_away.value.retry_after_s
    admission.count_call(grant("a"))


def test_a_batch_uses_up_future_calls() -> None:
    clock = Clock()
    admission = GrantLimiter(GatewayLimits(calls_per_s=10), clock)
    admission.count_call(grant("a"), 30)
    clock.now += 2.0
    assert calls_let_in(admission, grant("a"), 1) == 0
    clock.now += 0.2
    assert calls_let_in(admission, grant("a"), 5) == 2


def test_a_rate_below_one_per_second_works() -> None:
    clock = Clock()
    admission = GrantLimiter(GatewayLimits(calls_per_s=0.5), clock)
    assert calls_let_in(admission, grant("a"), 5) == 1
    clock.now += 2.0
    assert calls_let_in(admission, grant("a"), 5) == 1


def test_streams_are_counted_while_open_however_they_end() -> None:
    admission = GrantLimiter(GatewayLimits(streams=2))
    with admission.count_stream(grant("a")), admission.count_stream(grant("a")):
        with pytest.raises(TooManyError), admission.count_stream(grant("a")):
            pass
        with admission.count_stream(grant("b")):
            pass
    with pytest.raises(ZeroDivisionError), admission.count_stream(grant("a")):
        raise ZeroDivisionError
    with admission.count_stream(grant("a")), admission.count_stream(grant("a")):
        pass


@pytest.mark.parametrize("field", GatewayLimits.__slots__)
def test_a_limit_of_zero_is_rejected(field: str) -> None:
    with pytest.raises(ConfigurationError, match=field):
        GatewayLimits(**{field: 0})
