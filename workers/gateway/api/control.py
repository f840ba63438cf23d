"""What steers the fleet itself: variables and sessions below ``dspex.``, which only some grants may change."""

from __future__ import annotations

from collections.abc import Iterable

from snakepit_bridge.rollouts.records import RESERVED_PREFIX
from workers.gateway.access.authentication import Grant, GrantScope
from workers.gateway.errors import NotGrantedError


def check_control(session: str, names: Iterable[str], grant: Grant) -> None:
    """Check that a grant may change these variables: those that steer the fleet need the control scope.

    Raises:
        NotGrantedError: the grant lacks that scope.
    """
    if GrantScope.CONTROL not in grant.scopes and any(is_control(name) for name in (session, *names)):
        raise NotGrantedError(grant.name, GrantScope.CONTROL, session)


def is_control(name: str) -> bool:
    """Check whether a name is of something that steers the fleet."""
    return name.startswith(RESERVED_PREFIX)
