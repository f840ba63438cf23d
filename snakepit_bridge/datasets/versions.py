"""What is known of stored datasets without loading their examples: references, versions and listings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Self

from snakepit_bridge.datasets.dataset import NAME_PATTERN, Dataset
from snakepit_bridge.exceptions import DatasetNotFoundError
from snakepit_bridge.variables.codec import encode_canonical, parse

_REFERENCE = re.compile(rf"(?P<name>{NAME_PATTERN})(?::(?P<version>[1-9]\d{{0,8}}))?")


@dataclass(frozen=True, slots=True)
class DatasetReference:
    """A reference to a dataset: ``golden`` (the newest version) or ``golden:3``."""

    name: str
    version: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a reference.

        Raises:
            DatasetNotFoundError: the text isn't a valid reference.
        """
        match = _REFERENCE.fullmatch(text)
        if match is None:
            raise DatasetNotFoundError(text[:120], (), "a reference reads NAME or NAME:VERSION")
        return cls(match["name"], int(match["version"]) if match["version"] else None)

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}:{self.version}"

    @property
    def field(self) -> str:
        """The field of the dataset's hash that this reference reads."""
        return "latest" if self.version is None else f"version:{self.version}"


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """A stored version of a dataset, which never changes.

    Attributes:
        name: of the dataset.
        version: its number.
        digest: of its content.
        inputs: the names of the input fields.
        examples: how many it has.
        size_bytes: the bytes of their lines.
        chunks: how many chunks the content has.
        at: when it was added, in Unix seconds of the server's clock.
        author: who added it.
        source: what it was read from, such as a file's name.
    """

    name: str
    version: int
    digest: str
    inputs: tuple[str, ...]
    examples: int
    size_bytes: int
    chunks: int
    at: float
    author: str = ""
    source: str = ""

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"

    @classmethod
    def decode(cls, name: str, entry: bytes) -> Self:
        """Decode a version's entry, which ``add_version.lua`` describes."""
        version, at, described = entry.split(b"\n", 2)
        parts: dict[str, Any] = parse(described)
        inputs = tuple(parts.pop("inputs"))
        return cls(name, int(version), inputs=inputs, at=float(at), **parts)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        names = ("name", "version", "digest", "examples", "size_bytes", "at", "author", "source")
        return {"inputs": list(self.inputs), **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True, slots=True)
class DatasetListing:
    """A dataset as :meth:`DatasetRegistry.list` lists it: its newest version, and how many there are."""

    latest: DatasetVersion
    versions: int


def describe(dataset: Dataset, *, chunks: int, author: str, source: str) -> bytes:
    """Return the description of a version, as its entry has it."""
    described = {
        "digest": dataset.digest,
        "inputs": list(dataset.inputs),
        "examples": len(dataset),
        "size_bytes": sum(map(len, dataset.lines)),
        "chunks": chunks,
        "author": author,
        "source": source,
    }
    return encode_canonical(described)
