"""Promotion: a label moves to a revision once every process that would run under it has shown that it can."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from snakepit_bridge.exceptions import RevisionNotAppliedError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots.acknowledgements import Acks, ProcessAck

if TYPE_CHECKING:
    from snakepit_bridge.snapshots import SnapshotStore

# Processes look for what is new four times a second.
_LOOK_EVERY_S = 0.1
_UNSET = Token(0, 0)


async def promote(store: SnapshotStore, acks: Acks, session: str, label: str, at: Token | str, wait_s: float) -> Token:
    """Moves a label as ``Fleet.promote`` says, and returns the token that it names now."""
    # Read and not just resolved: for a revision that isn't there, or not any more, everybody would wait in vain.
    token = (await store.read_at(session, at)).token
    before = (await store.labels(session)).get(label)
    await _acknowledged(acks, session, token, wait_s)
    return await store.label(session, label, token, expected=before.token if before else _UNSET, reason="promoted")


async def _acknowledged(acks: Acks, session: str, token: Token, wait_s: float) -> None:
    """Waits for all live processes that hold the session. One that refuses the revision ends the wait at once."""
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_s
    while True:
        said = await acks.applied(session)
        missing = [one for one in said if not one.acknowledges(token)]
        if said and not missing:
            return
        if any(one.error and one.token >= token for one in missing) or loop.time() >= until:
            raise RevisionNotAppliedError(session, str(token), _waiting(missing))
        await asyncio.sleep(_LOOK_EVERY_S)


def _waiting(missing: Sequence[ProcessAck]) -> str:
    if not missing:
        return "no worker process holds the session; make a prediction under it first"
    return "; ".join(f"{one.process} {one.error or f'is at {one.token}'}" for one in missing)
