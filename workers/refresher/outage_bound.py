"""How long Elixir may be unheard of in normal operation, published with each reading so that readers detect outages."""

from __future__ import annotations

from workers.refresher.schedule import max_delay_s
from workers.refresher.settings import RefresherSettings

TICK_INTERVAL_S = 1.0
"""The longest interval between two ticks of a refresher, in which it renews its leases."""

CONFIRM_INTERVAL_S = 0.25
"""Interval between two batches of confirmations."""

# A single refresher is back within this time after a restart, and takes over the leases of its name at once.
_RESTART_S = 3.0


def max_silence_s(settings: RefresherSettings, *, read_s: float, round_s: float) -> float:
    """Return the seconds from the start of a reading within which the store learns of a later one in normal operation.

    The bound covers the interval between reads, an answer that takes the full timeout, a refresher that dies just then
    and whose successor reads twice, and sending the confirmation.

    Args:
        settings: the refresher's settings.
        read_s: seconds that the reading took.
        round_s: seconds that it took including the wait for a read slot.
    """
    tick_s = min(TICK_INTERVAL_S, settings.lease_s / 3)
    takeover_s = max(settings.lease_s, _RESTART_S) + 2 * tick_s
    delay_s = max_delay_s(settings.poll_max_s, read_s)
    return delay_s + settings.timeout_s + takeover_s + 3 * round_s + CONFIRM_INTERVAL_S
