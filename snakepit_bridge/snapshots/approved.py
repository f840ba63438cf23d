"""Changes of sessions that wait for approval: as what they are stored, and how they are made once they are approved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from snakepit_bridge.audit.requests import ApprovalRequest
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.rollouts.experiment_changes import decode_experiment_event
from snakepit_bridge.snapshots.records import Changes
from snakepit_bridge.variables import Variable

if TYPE_CHECKING:
    from snakepit_bridge.snapshots.store import SnapshotStore


def encode_publish(changes: Changes, fence: int | None, *, replace: bool) -> dict[str, Any]:
    """Return the arguments of the request for a publish."""
    encoded = {name: None if each is None else each.encode().decode() for name, each in changes.items()}
    return {"changes": encoded, "replace": replace, "fence": fence}


def decode_changes(arguments: Mapping[str, Any]) -> dict[str, Variable | None]:
    """Return the variables that the request for a publish changes; None for one that it deletes."""
    return {
        name: None if text is None else Variable.decode(name, text.encode())
        for name, text in arguments["changes"].items()
    }


async def apply_session_change(store: SnapshotStore, request: ApprovalRequest) -> str:
    """Make an approved change of a session, exactly as it was requested, and return the token that it led to.

    Args:
        store: the store of the session.
        request: with all approvals that it needs.

    Raises:
        StaleTokenError, RolloutMovedError: the session or the label isn't at what the request expects.
        ApprovalNotFoundError: somebody else has applied it meanwhile, or it has expired.
        BridgeError: what the change raises.
    """
    session, _, label = request.target.removeprefix("session:").rpartition("@")
    arguments = request.arguments
    by: Any = {"author": request.author, "reason": request.reason, "approval": request.id}
    if request.operation == "label":
        expected = Token.parse(request.expected)
        return str(await store.label(session, label, Token.parse(arguments["at"]), expected=expected, **by))
    if request.operation == "unlabel":
        await store.unlabel(session, label, **by)
        return ""
    session = request.target.removeprefix("session:")
    if request.operation == "publish":
        return str(
            await store.publish(
                session,
                decode_changes(arguments),
                replace=arguments["replace"],
                expected=Token.parse(request.expected),
                fence=arguments["fence"],
                **by,
            )
        )
    if request.operation == "rollback":
        expected, to = Token.parse(request.expected), Token.parse(arguments["to"])
        return str(await store.rollback(session, to, expected=expected, fence=arguments["fence"], **by))
    if request.operation == "drop_session":
        await store.drop(session, **by)
        return ""
    event = decode_experiment_event(arguments, request.author, request.reason)
    await store.change_experiments(session, arguments["before"], arguments["after"], event, request.id)
    return ""
