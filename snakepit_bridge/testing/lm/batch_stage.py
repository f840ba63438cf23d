"""The batches that an LM server was sent, and what goes wrong with them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class StagedBatch:
    """One batch at the server.

    Attributes:
        id: its id.
        lines: custom id to request.
        endpoint: of OpenAI's batches; empty for Anthropic's.
        metadata: as it was created.
        created_at: Unix seconds.
        end: ``completed``, ``expired``, ``cancelled`` or ``failed``; None while it runs.
        replies: custom id to status and body.
    """

    id: str
    lines: dict[str, Mapping[str, Any]]
    endpoint: str
    metadata: Mapping[str, Any]
    created_at: float
    end: str | None = None
    replies: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict[str, tuple[int, dict[str, Any]]])


@dataclass(slots=True)
class BatchFaults:
    """What goes wrong with batches.

    Attributes:
        delay_s: seconds that a batch runs.
        expire: so many of the next batches expire, and half of their lines have no reply.
        fail: so many of the next batches fail as a whole.
        drop_created: so many of the next batches are created without their creator being told.
    """

    delay_s: float = 0.0
    expire: int = 0
    fail: int = 0
    drop_created: int = 0


@dataclass(slots=True)
class BatchStage:
    """The batches of a server, which outlive it.

    Attributes:
        faults: what goes wrong.
        files: file id to content.
        batches: batch id to batch.
    """

    faults: BatchFaults = field(default_factory=BatchFaults)
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    batches: dict[str, StagedBatch] = field(default_factory=dict[str, StagedBatch])

    def custom_ids(self) -> list[str]:
        """Return the ids of all lines of all batches, as often as they were sent."""
        return [custom_id for batch in self.batches.values() for custom_id in batch.lines]

    def add_file(self, content: bytes) -> str:
        """Store a file and return its id."""
        file = f"file-{len(self.files) + 1}"
        self.files[file] = content
        return file

    def add(self, lines: dict[str, Mapping[str, Any]], endpoint: str, metadata: Mapping[str, Any]) -> StagedBatch:
        """Create a batch."""
        batch = StagedBatch(f"batch-{len(self.batches) + 1}", lines, endpoint, metadata, time.time())
        self.batches[batch.id] = batch
        return batch
