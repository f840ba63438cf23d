"""What rollouts and experiments stage: a session, or a label of a program, which is of all sessions."""

from __future__ import annotations

from snakepit_bridge.client import Fleet
from snakepit_bridge.releases.target_names import TargetName
from workers.gateway.access.authentication import GrantScope
from workers.gateway.call import ClientCall
from workers.gateway.errors import NotGrantedError
from workers.gateway.loading import load_in_thread


async def require_target(fleet: Fleet, text: str, call: ClientCall) -> TargetName:
    """Return the target of a request.

    Args:
        fleet: the fleet, whose programs are loaded beside the event loop if it is a label: that takes seconds.
        text: the request's.
        call: the caller's.

    Raises:
        NotGrantedError: the caller's grant doesn't cover it.
        SessionNameError, ProgramNotFoundError: it can't be a target.
    """
    target = TargetName.parse(text)
    if not is_covered(target, call):
        raise NotGrantedError(call.grant.name, GrantScope.RELEASE, target.name if target.kind == "session" else "*")
    if target.kind == "program":
        await load_in_thread(lambda: fleet.registry)
    return target


def require_all_sessions(call: ClientCall, scope: GrantScope) -> None:
    """Check that a caller's grant covers all sessions, for what belongs to or may be from any of them.

    Raises:
        NotGrantedError: it doesn't.
    """
    if not call.grant.covers_all:
        raise NotGrantedError(call.grant.name, scope, "*")


def is_covered(target: TargetName, call: ClientCall) -> bool:
    """Check whether a caller's grant covers a target."""
    return call.grant.covers(target.name) if target.kind == "session" else call.grant.covers_all
