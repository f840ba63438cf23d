"""For how long Elixir may be silent while all is well: what is published with each look, so that readers can judge."""

from __future__ import annotations

from workers.refresher.schedule import max_delay_s
from workers.refresher.settings import RefresherSettings

TICK_INTERVAL_S = 1.0
"""How often a refresher looks after its leases, at least."""

CONFIRM_INTERVAL_S = 0.25
"""How often confirmations are sent."""

# A lone refresher that is started again is there by then, and takes the leases of its name at once.
_RESTART_S = 3.0


def max_silence_s(settings: RefresherSettings, *, look_s: float, turn_s: float) -> float:
    """Return the seconds after the beginning of a look within which a later one is known of, while all is well.

    That allows for the rest in between, for an answer that takes as long as it may, for a refresher that dies just then
    and whose successor looks twice, and for what it takes to tell the store.

    Args:
        settings: the refresher's.
        look_s: how long the look took.
        turn_s: how long it took together with the wait for its turn.
    """
    tick_s = min(TICK_INTERVAL_S, settings.lease_s / 3)
    hand_over_s = max(settings.lease_s, _RESTART_S) + 2 * tick_s
    rest_s = max_delay_s(settings.poll_max_s, look_s)
    return rest_s + settings.timeout_s + hand_over_s + 3 * turn_s + CONFIRM_INTERVAL_S
