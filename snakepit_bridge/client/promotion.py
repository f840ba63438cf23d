"""Promotion: a label moves to a revision once every process that would run under it has shown that it can."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snakepit_bridge.exceptions import RevisionNotAppliedError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots.acknowledgements import Acks, ProcessAck
from snakepit_bridge.snapshots.records import check_label_name

if TYPE_CHECKING:
    from snakepit_bridge.snapshots import SnapshotStore

# Processes look for what is new four times a second.
_POLL_INTERVAL_S = 0.1
UNSET_LABEL = Token(0, 0)
"""What a label that doesn't exist yet is moved from."""


@dataclass(frozen=True, slots=True)
class LabelMove:
    """A move of a session's label to the revision ``token``, for as long as it points at ``expected``."""

    session: str
    label: str
    token: Token
    expected: Token


async def plan_move(store: SnapshotStore, session: str, label: str, at: Token | str) -> LabelMove:
    """Return the move of a label to what ``at`` names now, from where it points now.

    Raises:
        RevisionLostError: the store can't give the revision any more.
        ValueError: the label can't be one.
    """
    check_label_name(label)
    # Read and not just resolved: for a revision that isn't there, or not any more, everybody would wait in vain.
    token = (await store.read_at(session, at)).token
    before = (await store.labels(session)).get(label)
    return LabelMove(session, label, token, before.token if before else UNSET_LABEL)


async def carry_out_move(store: SnapshotStore, acks: Acks, move: LabelMove, wait_s: float, author: str = "") -> Token:
    """Move a label once every process applies its new revision, and return the token that it names now.

    Raises:
        RevisionNotAppliedError: a process refuses it, or doesn't apply it in time, or none holds the session.
        LabelMovedError: the label was moved by somebody else since the move was planned.
    """
    await _wait_until_applied(acks, move.session, move.token, wait_s)
    return await store.label(
        move.session, move.label, move.token, expected=move.expected, author=author, reason="promoted"
    )


async def promote(
    store: SnapshotStore, acks: Acks, session: str, label: str, at: Token | str, wait_s: float, author: str = ""
) -> Token:
    """Move a label as ``Fleet.promote`` says, without gates, and return the token that it names now."""
    return await carry_out_move(store, acks, await plan_move(store, session, label, at), wait_s, author)


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
