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
_POLL_INTERVAL_S = 0.1
_UNSET = Token(0, 0)


async def promote(store: SnapshotStore, acks: Acks, session: str, label: str, at: Token | str, wait_s: float) -> Token:
    """Move a label as ``Fleet.promote`` says, and return the token that it names now."""
    # Read and not just resolved: for a revision that isn't there, or not any more, everybody would wait in vain.
    token = (await store.read_at(session, at)).token
    before = (await store.labels(session)).get(label)
    await _wait_until_applied(acks, session, token, wait_s)
    return await store.label(session, label, token, expected=before.token if before else _UNSET, reason="promoted")


async def _wait_until_applied(acks: Acks, session: str, token: Token, wait_s: float) -> None:
    """Wait for all live processes that hold the session. One that refuses the revision ends the wait at once."""
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_s
    while True:
        processes = await acks.read_acks(session)
        missing = [ack for ack in processes if not ack.acknowledges(token)]
        if processes and not missing:
            return
        if any(ack.error and ack.token >= token for ack in missing) or loop.time() >= until:
            raise RevisionNotAppliedError(session, str(token), _describe_missing(missing))
        await asyncio.sleep(_POLL_INTERVAL_S)


def _describe_missing(missing: Sequence[ProcessAck]) -> str:
    if not missing:
        return "no worker process holds the session; make a prediction under it first"
    return "; ".join(f"{ack.process} {ack.error or f'is at {ack.token}'}" for ack in missing)
