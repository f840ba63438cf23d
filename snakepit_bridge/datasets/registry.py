"""The dataset registry: name and version to examples, in Redis.

Keys, all permanent: ``{namespace}:datasets`` (a set of names) and per dataset, under one hash tag, a hash of versions
and per version a hash of the chunks of its content. Content is stored before its version, and expires if none follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from snakepit_bridge.datasets.chunks import decode_chunks, encode_chunks
from snakepit_bridge.datasets.dataset import Dataset, digest_content
from snakepit_bridge.datasets.versions import DatasetListing, DatasetReference, DatasetVersion, describe
from snakepit_bridge.exceptions import DatasetError, DatasetNotFoundError
from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.scripts import ScriptPackage

_SCRIPTS = ScriptPackage("snakepit_bridge.datasets")
# How long content is kept whose version didn't follow, since its client died.
_UPLOAD_S = 3_600
# Chunks of one round trip: each has up to half a megabyte, or a row of twice that.
_PIPELINED = 4


class DatasetRegistry:
    """The datasets of one Redis.

    Args:
        connection: to it.
        namespace: prefix of every key.
    """

    def __init__(self, connection: RedisConnection, *, namespace: str = DEFAULT_NAMESPACE) -> None:
        self.connection = connection
        self.keys = FleetKeys(namespace)

    async def add(self, dataset: Dataset, *, author: str = "", source: str = "") -> DatasetVersion:
        """Store a dataset as the newest version of its name; content that a version has already keeps that version.

        Args:
            dataset: the examples.
            author: who adds them.
            source: what they were read from.

        Raises:
            DatasetError: another client removed the same content meanwhile.
            StoreUnavailableError: Redis can't be reached.
        """
        chunks = await asyncio.to_thread(encode_chunks, dataset.lines)
        keys = self._keys(dataset.name, dataset.digest)
        described = describe(dataset, chunks=len(chunks), author=author, source=source)
        args = (dataset.digest, len(chunks), described)
        # A name without a version is harmless, a version without a name would be hidden: so the name is added first.
        await self.connection.execute("SADD", self.keys.datasets, dataset.name)
        entry: bytes | None = await self.connection.run(_SCRIPTS["add_version"], keys, args)
        if entry is None:
            for number, chunk in enumerate(chunks):
                kept = (dataset.digest, number, chunk, _UPLOAD_S)
                await self.connection.run(_SCRIPTS["keep_chunk"], keys, kept)
            entry = await self.connection.run(_SCRIPTS["add_version"], keys, args)
        if entry is None:
            problem = "another client removed its content while it was stored; add it again"
            raise DatasetError(f"dataset '{dataset.name}'", problem)
        return DatasetVersion.decode(dataset.name, entry)

    async def get(self, reference: str) -> Dataset:
        """Return the dataset that a reference names, with its examples.

        Raises:
            DatasetNotFoundError: there is no such dataset or version.
            DatasetError: Redis holds something else than what was stored.
            StoreUnavailableError: Redis can't be reached.
        """
        return await self.load(await self.find(reference))

    async def find(self, reference: str) -> DatasetVersion:
        """Return what is known of the version that a reference names.

        Raises:
            DatasetNotFoundError: there is no such dataset or version.
            StoreUnavailableError: Redis can't be reached.
        """
        wanted = DatasetReference.parse(reference)
        entry = await self.connection.execute_read("HGET", self.keys.dataset_versions(wanted.name), wanted.field)
        if entry is None:
            raise DatasetNotFoundError(reference, await self._list_alternatives(wanted.name))
        return DatasetVersion.decode(wanted.name, entry)

    async def load(self, version: DatasetVersion) -> Dataset:
        """Return a version with its examples.

        Raises:
            DatasetError: Redis holds something else than what was stored, or the version was removed meanwhile.
            StoreUnavailableError: Redis can't be reached.
        """
        _, key = self._keys(version.name, version.digest)
        chunks: list[bytes | None] = []
        for first in range(0, version.chunks, _PIPELINED):
            numbers = range(first, min(first + _PIPELINED, version.chunks))
            chunks += await self.connection.send_each([("HGET", key, number) for number in numbers])
        complete = [chunk for chunk in chunks if chunk is not None]
        if len(complete) < len(chunks):
            raise _damage(version, f"{len(chunks) - len(complete)} of its {len(chunks)} chunks are missing")
        return await asyncio.to_thread(_decode, version, complete)

    async def list(self) -> list[DatasetListing]:
        """Return every dataset, by name.

        Raises:
            StoreUnavailableError: Redis can't be reached.
        """
        found = [await self.versions(name) for name in await self._list_names()]
        return [DatasetListing(versions[-1], len(versions)) for versions in found if versions]

    async def versions(self, name: str) -> list[DatasetVersion]:
        """Return the versions of a dataset, oldest first; none if there is no such dataset.

        Raises:
            StoreUnavailableError: Redis can't be reached.
        """
        key = self.keys.dataset_versions(name)
        fields: dict[bytes, bytes] = await self.connection.execute_read("HGETALL", key)
        entries = (entry for field, entry in fields.items() if field.startswith(b"version:"))
        return sorted((DatasetVersion.decode(name, entry) for entry in entries), key=lambda each: each.version)

    async def remove(self, reference: str) -> list[DatasetVersion]:
        """Remove a version, or all versions of a name, and return what was removed; numbers aren't given again.

        Raises:
            DatasetNotFoundError: there is no such dataset or version.
            StoreUnavailableError: Redis can't be reached.
        """
        found = await self.find(reference)
        wanted = [found] if DatasetReference.parse(reference).version else await self.versions(found.name)
        removed: list[DatasetVersion] = []
        for version in wanted:
            keys = self._keys(version.name, version.digest)
            if await self.connection.run(_SCRIPTS["remove_version"], keys, (version.version, version.digest)):
                removed.append(version)
        return removed

    def _keys(self, name: str, digest: str) -> tuple[str, str]:
        return self.keys.dataset_versions(name), self.keys.dataset_content(name, digest)

    async def _list_names(self) -> list[str]:
        found: Sequence[bytes] = await self.connection.execute_read("SMEMBERS", self.keys.datasets)
        return sorted(name.decode() for name in found)

    async def _list_alternatives(self, name: str) -> list[str]:
        """Return suggestions: the versions of the same dataset if it exists, else all names."""
        versions = await self.versions(name)
        return list(map(str, versions)) or [str(listing.latest.name) for listing in await self.list()]


def _decode(version: DatasetVersion, chunks: list[bytes]) -> Dataset:
    try:
        lines = decode_chunks(chunks)
    except ValueError as exc:
        raise _damage(version, f"a chunk can't be read ({exc})") from None
    if digest_content(version.inputs, lines) != version.digest:
        raise _damage(version, "what Redis holds isn't what was stored")
    return Dataset.decode(version.name, version.version, version.inputs, lines)


def _damage(version: DatasetVersion, problem: str) -> DatasetError:
    return DatasetError(f"dataset '{version}'", f"{problem}; it was removed, or Redis lost data: add it again")
