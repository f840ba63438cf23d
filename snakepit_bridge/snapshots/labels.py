"""LabelStore: the part of a snapshot store that names revisions: by tokens, by labels, and as the latest."""

from __future__ import annotations

from abc import ABC, abstractmethod

from snakepit_bridge.exceptions import LabelNotFoundError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots.records import LATEST, Head, Label, RevisionRef, check_label_name, parse_reference


class LabelStore(ABC):
    """The labels of each session, and what references of revisions stand for."""

    @abstractmethod
    async def head(self, session: str) -> Head:
        """Return the session's head.

        Raises:
            SessionNotFoundError: the session hasn't been published.
            StoreUnavailableError: the store is unreachable.
        """

    async def resolve(self, session: str, at: RevisionRef) -> Token:
        """Resolve a reference to its current token.

        Raises:
            LabelNotFoundError: the label isn't set.
            ValueError: the text isn't a token.
            SessionNotFoundError: the session hasn't been published.
            StoreUnavailableError: the store is unreachable.
        """
        token = parse_reference(at)
        if token is not None:
            return token
        if at == LATEST:
            return (await self.head(session)).token
        labels = await self.labels(session)
        label = labels.get(str(at))
        if label is None:
            raise LabelNotFoundError(session, str(at), tuple(labels))
        return label.token

    async def label(
        self,
        session: str,
        name: str,
        at: RevisionRef = LATEST,
        *,
        expected: Token | None = None,
        author: str = "",
        reason: str = "",
        approval: str = "",
    ) -> Token:
        """Point a label at a revision, which stays readable while it is labelled, and return the token.

        Args:
            session: the session.
            name: of the label.
            at: the revision, see ``read_at``.
            expected: move the label only from this token; ``Token(0, 0)`` for a label that isn't set.
            author: who requested the label.
            reason: why.
            approval: the id of the request for it that was approved.

        Raises:
            LabelMovedError: the label isn't at ``expected``.
            ApprovalRequiredError: a rule protects the label.
            ValueError: the name isn't a valid label.
            BridgeError: the revision can't be read, see ``read_at``.
        """
        check_label_name(name)
        return await self._label(session, name, await self.resolve(session, at), expected, author, reason, approval)

    @abstractmethod
    async def _label(
        self, session: str, name: str, token: Token, expected: Token | None, author: str, reason: str, approval: str
    ) -> Token: ...

    @abstractmethod
    async def unlabel(self, session: str, name: str, *, author: str = "", reason: str = "", approval: str = "") -> None:
        """Remove a label, if it is set.

        Raises:
            ApprovalRequiredError: a rule protects the label.
            SessionNotFoundError: the session hasn't been published.
            StoreUnavailableError: the store is unreachable.
        """

    @abstractmethod
    async def labels(self, session: str) -> dict[str, Label]:
        """Return the session's labels by name.

        Raises:
            SessionNotFoundError: the session hasn't been published.
            StoreUnavailableError: the store is unreachable.
        """
