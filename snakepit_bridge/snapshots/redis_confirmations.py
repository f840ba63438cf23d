"""Confirmations of many sessions at a time: that a read of their authority found no change."""

from __future__ import annotations

from collections.abc import Mapping

from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.snapshots import replies
from snakepit_bridge.snapshots.lua import SCRIPTS
from snakepit_bridge.snapshots.records import Confirmation
from snakepit_bridge.snapshots.redis_commit import CommitMetadata, Committer
from snakepit_bridge.snapshots.redis_keys import Keys
from snakepit_bridge.snapshots.replies import SessionQuery

# Sessions per pipeline.
_BATCH = 500


class RedisConfirmations:
    """Confirms the sessions of one store.

    Args:
        connection: the Redis.
        keys: of the store.
        committer: builds the arguments that all commits have in common.
    """

    def __init__(self, connection: RedisConnection, keys: Keys, committer: Committer) -> None:
        self._connection = connection
        self._keys = keys
        self._committer = committer

    async def confirm(self, looks: Mapping[str, Confirmation], publisher: str) -> dict[str, BridgeError]:
        """Confirm many sessions, and return the errors of rejected ones by session; see ``SnapshotStore.confirm``."""
        refused: dict[str, BridgeError] = {}
        items = list(looks.items()) if self._connection.cluster else await self._confirm_plain(looks, publisher)
        for start in range(0, len(items), _BATCH):
            batch = [
                (SessionQuery(name, publisher, look.expected, look.fence), look)
                for name, look in items[start : start + _BATCH]
            ]
            calls = [
                (
                    (*self._keys.session(query.session), self._keys.request(query.session)),
                    (
                        *self._committer.build_args(query, CommitMetadata(looked_at=look.looked_at, heard=look.heard)),
                        "",
                        "",
                        "",
                    ),
                )
                for query, look in batch
            ]
            for (query, _), reply in zip(
                batch, await self._connection.run_each(SCRIPTS["confirm"], calls), strict=True
            ):
                error = replies.parse_refusal(reply, query)
                if error is not None:
                    refused[query.session] = error
        return refused

    async def _confirm_plain(self, looks: Mapping[str, Confirmation], publisher: str) -> list[tuple[str, Confirmation]]:
        """Confirm plain cases in few calls, and return the others, which need a script of their own."""
        left: list[tuple[str, Confirmation]] = []
        plain: list[tuple[str, Confirmation, str]] = []
        for name, look in looks.items():
            if look.expected is None:
                left.append((name, look))
            else:
                at, (epoch, revision) = max(0, round(look.looked_at * 1e6)), look.expected
                plain.append((name, look, f"{look.fence or 0} {epoch} {revision} {at} {look.heard or ''}"))
        for start in range(0, len(plain), _BATCH):
            batch = plain[start : start + _BATCH]
            heads = [self._keys.head(name) for name, _, _ in batch]
            answers = await self._connection.run(
                SCRIPTS["confirm_all"], heads, [publisher, *(encoded for _, _, encoded in batch)]
            )
            left += [(name, look) for (name, look, _), done in zip(batch, answers, strict=True) if not done]
        return left
