"""Refuse a session that isn't there before many predictions are sent that would each fail with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from snakepit_bridge.exceptions import SessionNotFoundError, StoreForbiddenError
from snakepit_bridge.protocol.messages import DEFAULT_SESSION, check_session
from snakepit_bridge.protocol.token import Token

if TYPE_CHECKING:
    from snakepit_bridge.client.resources import FleetResources


async def check_published(
    fleet: FleetResources, session: str = DEFAULT_SESSION, exactly: Token | str | None = None, **_: Any
) -> None:
    """Refuse a session that was never published, unless workers may still get it from an Elixir server.

    Args:
        fleet: whose session it is.
        session: its name. The default session needs no publish.
        exactly: the one revision to run under, which outlives its session; whoever sends it has to look for it.
        **_: the other options of ``Fleet.submit``, which don't matter.

    Raises:
        SessionNotFoundError: each prediction would fail with it; names the session that was probably meant.
        SessionNameError: it can't be a session's name.
        StoreUnavailableError: Redis is away.
    """
    check_session(session)
    if session == DEFAULT_SESSION or exactly is not None:
        return
    try:
        await fleet.store.head(session)
    except SessionNotFoundError:
        if await _may_be_followed(fleet):
            return
        raise SessionNotFoundError(session, await fleet.store.session_names()) from None


async def _may_be_followed(fleet: FleetResources) -> bool:
    """Check whether a refresher runs: a worker has it follow a session that is used for the first time."""
    from snakepit_bridge.elixir.demand import SessionDemand

    try:
        return await SessionDemand(fleet.connection, namespace=fleet.namespace).has_live_refresher()
    except StoreForbiddenError:  # a user with the rights of an earlier release, which didn't look
        return True
