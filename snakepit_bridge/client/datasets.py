"""``fleet.datasets``: add, load, compare and remove datasets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from snakepit_bridge.datasets.dataset import Dataset
from snakepit_bridge.datasets.diff import DatasetDiff, diff_datasets
from snakepit_bridge.datasets.readers import read_dataset
from snakepit_bridge.datasets.recorded import RecordedPredictions
from snakepit_bridge.datasets.registry import DatasetRegistry
from snakepit_bridge.datasets.selection import ScoreCondition, Selection, build_from_predictions, select_predictions
from snakepit_bridge.datasets.versions import DatasetListing, DatasetVersion
from snakepit_bridge.encryption.cipher import PLAIN, Cipher
from snakepit_bridge.process.blocking_methods import blocking
from snakepit_bridge.process.home_loop import run_on_home_loop
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.releases.scores import Scores

Examples = Iterable[object] | str | Path
"""Mappings of field to value or instances of ``dspy.Example``, or the path of a file of them."""


class AsyncDatasets:
    """The datasets of a fleet, for callers that await.

    A reference is ``golden``, the newest version, or ``golden:3``.

    Args:
        connection: to the fleet's Redis.
        namespace: the fleet's.
        cipher: decrypts recorded predictions.
    """

    def __init__(self, connection: RedisConnection, namespace: str, cipher: Cipher = PLAIN) -> None:
        self._registry = DatasetRegistry(connection, namespace=namespace)
        self._predictions = RecordedPredictions(connection, namespace, cipher)
        self._scores = Scores(connection, namespace)

    async def add(
        self,
        name: str,
        examples: Examples,
        *,
        inputs: Sequence[str] | None = None,
        author: str = "",
        source: str = "",
    ) -> Dataset:
        """Store examples as the newest version of a name and return them; content of a version keeps that version.

        Args:
            name: letters, digits, ``_``, ``.`` and ``-``.
            examples: mappings of field to value or instances of ``dspy.Example``, or the path of a ``.jsonl``, ``.csv``
                or ``.parquet`` file.
            inputs: the input fields, an empty list for none; None for those that the examples or the file mark.
            author: who adds them.
            source: what they come from; the file's name if not given.

        Raises:
            DatasetError: the examples can't be a dataset; it names the example or the line, and nothing was stored.
            ConfigurationError: it is a Parquet file, and pyarrow isn't installed.
            StoreUnavailableError: Redis is away.
        """
        if isinstance(examples, str | Path):
            source = source or Path(examples).name
            dataset = await asyncio.to_thread(read_dataset, name, Path(examples), inputs=inputs)
        else:
            dataset = await asyncio.to_thread(Dataset.build, name, examples, inputs=inputs)
        version = await run_on_home_loop(self._registry.add(dataset, author=author, source=source))
        return replace(dataset, version=version.version)

    async def from_predictions(
        self,
        program: str,
        name: str,
        *,
        scores: Sequence[str] = (),
        error: str = "",
        session: str = "",
        token: str = "",
        version: int | None = None,
        since_s: float | None = None,
        limit: int = 1_000,
        author: str = "",
    ) -> Dataset:
        """Store recorded predictions of a program as the newest version of a dataset, and return it.

        A row has the inputs and outputs of a prediction, a column ``score_NAME`` for each of its scores, and ``error``
        if it failed. What a program says isn't what it should say: correct the outputs before you measure against them.

        Args:
            program: its name; ``fleet.recorders`` says what is recorded of it.
            name: of the dataset.
            scores: conditions on their scores, such as ``helpful<0.5`` or ``tone=curt``, all of which hold.
            error: the class of their error, or ``any``; empty for those that succeeded.
            session, token, version: what they ran under; empty for any.
            since_s: how many seconds ago they ended at most; None for all that is recorded.
            limit: how many at most, the newest ones.
            author: who adds them.

        Raises:
            DatasetError: a condition is none, no prediction is selected, or one can't be an example.
            StoreUnavailableError: Redis is away.
        """
        conditions = tuple(ScoreCondition.parse(text) for text in scores)
        selection = Selection(conditions, error, session, token, version, limit=limit).check()
        return await run_on_home_loop(self._add_selected(program, name, selection, since_s, author))

    async def get(self, reference: str) -> Dataset:
        """Return a dataset with its examples.

        Raises:
            DatasetNotFoundError: there is no such dataset or version.
            DatasetError: Redis holds something else than what was stored.
            StoreUnavailableError: Redis is away.
        """
        return await run_on_home_loop(self._registry.get(reference))

    async def find(self, reference: str) -> DatasetVersion:
        """Return what is known of a version without its examples: number, digest, size, author.

        Raises:
            DatasetNotFoundError: there is no such dataset or version.
            StoreUnavailableError: Redis is away.
        """
        return await run_on_home_loop(self._registry.find(reference))

    async def list(self) -> list[DatasetListing]:
        """Return the datasets, by name.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        return await run_on_home_loop(self._registry.list())

    async def versions(self, name: str) -> list[DatasetVersion]:
        """Return the versions of a dataset, oldest first; none if there is no such dataset.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        return await run_on_home_loop(self._registry.versions(name))

    async def diff(self, before: str, after: str) -> DatasetDiff:
        """Return which examples were added, removed or changed between two datasets or versions.

        Raises:
            DatasetNotFoundError: there is no such dataset or version.
            DatasetError: Redis holds something else than what was stored.
            StoreUnavailableError: Redis is away.
        """
        earlier, later = await self.get(before), await self.get(after)
        return await asyncio.to_thread(diff_datasets, earlier, later)

    async def remove(self, reference: str) -> list[DatasetVersion]:
        """Remove a version, or with a name alone all of its versions, and return them; numbers aren't given again.

        Raises:
            DatasetNotFoundError: there is no such dataset or version.
            StoreUnavailableError: Redis is away.
        """
        return await run_on_home_loop(self._registry.remove(reference))

    async def _add_selected(
        self, program: str, name: str, selection: Selection, since_s: float | None, author: str
    ) -> Dataset:
        if since_s is not None:
            now = await self._registry.connection.execute_read("TIME")
            selection = replace(selection, since=int(now[0]) - since_s)
        selected = await select_predictions(self._predictions, self._scores, program, selection)
        dataset = await asyncio.to_thread(build_from_predictions, name, program, selected)
        version = await self._registry.add(dataset, author=author, source=selection.describe(program))
        return replace(dataset, version=version.version)


class Datasets:
    """The datasets of a fleet; each method does what the one of the same name of ``aio`` does.

    It can be used in any thread, with or without a running event loop.

    Args:
        aio: the same for callers that await.
    """

    def __init__(self, aio: AsyncDatasets) -> None:
        self.aio = aio

    add = blocking(AsyncDatasets.add)
    from_predictions = blocking(AsyncDatasets.from_predictions)
    get = blocking(AsyncDatasets.get)
    find = blocking(AsyncDatasets.find)
    list = blocking(AsyncDatasets.list)
    versions = blocking(AsyncDatasets.versions)
    diff = blocking(AsyncDatasets.diff)
    remove = blocking(AsyncDatasets.remove)
