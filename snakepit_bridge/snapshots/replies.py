"""What the scripts of ``stores/lua`` answer, as the values and errors of the store's contract.

Every answer is a list whose first item says which kind it is; the rest is bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from snakepit_bridge.exceptions import (
    BridgeError,
    FencedError,
    LabelMovedError,
    RevisionLostError,
    RevisionNotReachedError,
    SessionNotFoundError,
    SessionOwnedElsewhereError,
    StaleTokenError,
)
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots.records import STORE, Change, Head, Label
from snakepit_bridge.snapshots.snapshot import Heard, Lineage, Snapshot
from snakepit_bridge.variables import Variable

Reply = Sequence[Any]

HEAD_FIELDS = ("epoch", "revision", "run", "replid", "authority", "fence", "confirmed_at", "heard")


@dataclass(frozen=True, slots=True)
class SessionQuery:
    """What was asked of a session, for an error to name."""

    session: str
    publisher: str = STORE
    expected: Token | None = None
    fence: int | None = None
    token: Token | None = None
    label: str = ""


def accepted(reply: Reply, asked: SessionQuery) -> Reply:
    """Returns the reply unless it is a refusal.

    Raises:
        BridgeError: the error that the refusal stands for.
    """
    error = refusal(reply, asked)
    if error is not None:
        raise error
    return reply


def refusal(reply: Reply, asked: SessionQuery) -> BridgeError | None:
    """Returns the error that a reply stands for, or None if it isn't a refusal."""
    made = _REFUSALS.get(reply[0])
    return None if made is None else made(asked, b"".join(reply[1:]).decode())


def token(reply: bytes) -> Token:
    """Returns the token that a script wrote."""
    return Token.parse(reply.decode())


def snapshot(reply: Reply, session: str, have: Snapshot | None) -> Snapshot:
    """Returns the snapshot that a ``same``, ``delta`` or ``full`` reply describes to a reader of ``have``."""
    confirmed_at, heard = seconds(reply[1]), Heard.parse(reply[2].decode())
    if have is not None and reply[0] == b"same":
        return have.confirmed(confirmed_at, heard)
    variables: dict[str, Variable] = {}
    if have is not None and reply[0] == b"delta":
        variables.update(have.variables)
    for name, value in _by_name(reply[6]):
        if value is None:
            variables.pop(name, None)
        else:
            variables[name] = value
    lineage, authority = reply[4].decode(), reply[5].decode()
    return Snapshot(session, token(reply[3]), variables, confirmed_at, Lineage.parse(lineage), authority, heard)


def head(reply: Reply) -> Head:
    """Returns the head that a ``head`` reply describes."""
    heard = Heard.parse(reply[6].decode())
    return Head(token(reply[1]), reply[2].decode(), int(reply[3]), seconds(reply[4]), seconds(reply[5]), heard)


def plain_head(found: Reply, server: Reply, now: float) -> Head | None:
    """Return the head whose ``HEAD_FIELDS`` were read outside of a script, or None if a script has to judge it.

    Args:
        found: the fields.
        server: the server's run and the id under which it replicates.
        now: the server's time, in Unix seconds.
    """
    if found[0] is None or found[2:4] != server or found[1] == b"0":
        return None
    epoch, revision, _, _, authority, fence, confirmed_at, heard = found
    published_as = Token(int(epoch), int(revision))
    known = Heard.parse((heard or b"").decode())
    return Head(published_as, authority.decode(), int(fence), seconds(confirmed_at), now, known)


def change(entry: Reply) -> Change:
    """Returns one entry of a ``history`` reply."""
    published_as, at, author, reason, flat = entry
    before = dict(_by_name([part for i in range(0, len(flat), 3) for part in (flat[i], flat[i + 1])]))
    after = dict(_by_name([part for i in range(0, len(flat), 3) for part in (flat[i], flat[i + 2])]))
    return Change(token(published_as), seconds(at), author.decode(), reason.decode(), before, after)


def labels(reply: Reply) -> dict[str, Label]:
    """Returns the labels of a ``labels`` reply by name."""
    found: dict[str, Label] = {}
    for name, (at, time, author, reason) in sorted(zip(reply[1::2], reply[2::2], strict=True)):
        found[name.decode()] = Label(token(at), seconds(time), author.decode(), reason.decode())
    return found


def seconds(microseconds: bytes) -> float:
    """Returns a time that a script wrote in Unix seconds."""
    return int(microseconds) / 1e6


def _by_name(flat: Sequence[bytes]) -> Iterator[tuple[str, Variable | None]]:
    for i in range(0, len(flat), 2):
        name = flat[i].decode()
        yield name, Variable.decode(name, flat[i + 1]) if flat[i + 1] else None


_REFUSALS: dict[bytes, Callable[[SessionQuery, str], BridgeError]] = {
    b"none": lambda asked, _: SessionNotFoundError(asked.session),
    b"owned": lambda asked, found: SessionOwnedElsewhereError(asked.session, found, asked.publisher),
    b"fenced": lambda asked, found: FencedError(asked.session, asked.fence or 0, int(found)),
    b"stale": lambda asked, found: StaleTokenError(asked.session, str(asked.expected), found),
    b"relabelled": lambda asked, found: LabelMovedError(asked.session, str(asked.expected), found, asked.label),
    b"lost": lambda asked, found: RevisionLostError(asked.session, str(asked.token), found),
    b"ahead": lambda asked, found: RevisionNotReachedError(asked.session, str(asked.token), found, 0.0),
}
