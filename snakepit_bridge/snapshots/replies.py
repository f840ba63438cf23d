"""Parsing of the Lua scripts' replies into the values and errors of the store's interface.

Every reply is a list whose first item is its kind; the rest is bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from snakepit_bridge.audit.change_control import raise_if_protected
from snakepit_bridge.exceptions import (
    ApprovalNotFoundError,
    BridgeError,
    FencedError,
    LabelMovedError,
    RevisionLostError,
    RevisionNotReachedError,
    RolloutMovedError,
    RolloutOverlapError,
    SessionNotFoundError,
    SessionOwnedElsewhereError,
    StaleTokenError,
)
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.rollouts.records import RolloutRecord
from snakepit_bridge.snapshots.records import STORE, Change, Head, Label
from snakepit_bridge.snapshots.snapshot import AuthoritySign, Lineage, Snapshot
from snakepit_bridge.snapshots.stored_variables import StoredVariables
from snakepit_bridge.variables import Variable

Reply = Sequence[Any]

HEAD_FIELDS = (
    "epoch",
    "revision",
    "run",
    "replid",
    "authority",
    "fence",
    "confirmed_at",
    "heard",
    "rollout",
    "experiments",
)


@dataclass(frozen=True, slots=True)
class SessionQuery:
    """The request to a session, for error messages."""

    session: str
    publisher: str = STORE
    expected: Token | None = None
    fence: int | None = None
    token: Token | None = None
    label: str = ""
    rollout: str = ""
    approval: str = ""


def raise_if_refused(reply: Reply, query: SessionQuery) -> Reply:
    """Return the reply unless it is a refusal.

    Raises:
        BridgeError: the error of the refusal.
        TargetProtectedError: a rule protects the session or the label.
    """
    raise_if_protected(reply)
    error = parse_refusal(reply, query)
    if error is not None:
        raise error
    return reply


def parse_refusal(reply: Reply, query: SessionQuery) -> BridgeError | None:
    """Return the error of a refusal, or None for another reply."""
    make_error = _REFUSALS.get(reply[0])
    return None if make_error is None else make_error(query, b"".join(reply[1:]).decode())


def parse_token(reply: bytes) -> Token:
    """Parse a token."""
    return Token.parse(reply.decode())


def parse_snapshot(reply: Reply, session: str, have: Snapshot | None, stored: StoredVariables) -> Snapshot:
    """Parse a ``same``, ``delta`` or ``full`` reply to a reader that has the snapshot ``have``.

    Raises:
        DecryptionError: a variable can't be decrypted.
    """
    confirmed_at, heard = parse_seconds(reply[1]), AuthoritySign.parse(reply[2].decode())
    if have is not None and reply[0] == b"same":
        return have.with_confirmation(confirmed_at, heard).with_staging(
            parse_rollout(reply[3]), have.baseline, reply[4].decode()
        )
    variables: dict[str, Variable] = {}
    if have is not None and reply[0] == b"delta":
        variables.update(have.variables)
    for name, value in _parse_variables(reply[6], session, stored):
        if value is None:
            variables.pop(name, None)
        else:
            variables[name] = value
    lineage, authority = Lineage.parse(reply[4].decode()), reply[5].decode()
    current = len(reply) > 7
    published_at, rollout = (parse_seconds(reply[7]), parse_rollout(reply[8])) if current else (0.0, None)
    experiments = reply[9].decode() if current else ""
    token = parse_token(reply[3])
    return Snapshot(
        session,
        token,
        variables,
        confirmed_at,
        lineage,
        authority,
        heard,
        published_at,
        rollout,
        experiments=experiments,
    )


def parse_rollout(text: bytes | None) -> RolloutRecord | None:
    """Parse the record of a session's rollout; None for an empty one."""
    return RolloutRecord.parse(text.decode()) if text else None


def parse_head(reply: Reply) -> Head:
    """Parse a ``head`` reply."""
    heard = AuthoritySign.parse(reply[6].decode())
    token, authority, fence = parse_token(reply[1]), reply[2].decode(), int(reply[3])
    times = parse_seconds(reply[4]), parse_seconds(reply[5])
    return Head(token, authority, fence, *times, heard, parse_rollout(reply[7]), reply[8].decode())


def parse_plain_head(fields: Reply, server: Reply, now: float) -> Head | None:
    """Return the head from its ``HEAD_FIELDS``, or None if it must be read by a script.

    Args:
        fields: the values of ``HEAD_FIELDS``.
        server: the server's run id and replication id.
        now: the server's time in Unix seconds.
    """
    if fields[0] is None or fields[2:4] != server or fields[1] == b"0":
        return None
    epoch, revision, _, _, authority, fence, confirmed_at, heard, rollout, experiments = fields
    token = Token(int(epoch), int(revision))
    sign = AuthoritySign.parse((heard or b"").decode())
    staging = parse_rollout(rollout), (experiments or b"").decode()
    return Head(token, authority.decode(), int(fence), parse_seconds(confirmed_at), now, sign, *staging)


def parse_change(entry: Reply, session: str, stored: StoredVariables) -> Change:
    """Parse one entry of a ``history`` reply.

    Raises:
        DecryptionError: a value can't be decrypted.
    """
    token, at, author, reason, flat = entry

    def parse_side(offset: int) -> dict[str, Variable | None]:
        pairs = [part for i in range(0, len(flat), 3) for part in (flat[i], flat[i + offset])]
        return dict(_parse_variables(pairs, session, stored))

    before, after = parse_side(1), parse_side(2)
    return Change(parse_token(token), parse_seconds(at), author.decode(), reason.decode(), before, after)


def parse_labels(reply: Reply) -> dict[str, Label]:
    """Parse a ``labels`` reply into labels by name."""
    labels: dict[str, Label] = {}
    for name, (at, time, author, reason) in sorted(zip(reply[1::2], reply[2::2], strict=True)):
        labels[name.decode()] = Label(parse_token(at), parse_seconds(time), author.decode(), reason.decode())
    return labels


def parse_seconds(microseconds: bytes) -> float:
    """Parse a time in microseconds into seconds."""
    return int(microseconds) / 1e6


def _parse_variables(
    flat: Sequence[bytes], session: str, stored: StoredVariables
) -> Iterator[tuple[str, Variable | None]]:
    for i in range(0, len(flat), 2):
        name = flat[i].decode()
        yield name, stored.decode(session, name, flat[i + 1])


_REFUSALS: dict[bytes, Callable[[SessionQuery, str], BridgeError]] = {
    b"none": lambda query, _: SessionNotFoundError(query.session),
    b"owned": lambda query, found: SessionOwnedElsewhereError(query.session, found, query.publisher),
    b"fenced": lambda query, found: FencedError(query.session, query.fence or 0, int(found)),
    b"stale": lambda query, found: StaleTokenError(query.session, str(query.expected), found),
    b"relabelled": lambda query, found: LabelMovedError(query.session, str(query.expected), found, query.label),
    b"restaged": lambda query, found: RolloutMovedError(f"session:{query.session}", query.rollout, found),
    b"overlap": lambda query, found: RolloutOverlapError(f"session:{query.session}", found),
    b"unapproved": lambda query, _: ApprovalNotFoundError(query.approval),
    b"lost": lambda query, found: RevisionLostError(query.session, str(query.token), found),
    b"ahead": lambda query, found: RevisionNotReachedError(query.session, str(query.token), found, 0.0),
}
