"""Chunks: a dataset's lines as bounded pieces, each compressed if that makes it smaller."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence

from snakepit_bridge.datasets.rows import MAX_ROW_BYTES

CHUNK_BYTES = 512 * 1024
"""Lines are added to a chunk up to this size; a longer line is a chunk by itself."""

_COMPRESSED, _PLAIN = b"z", b"p"
_LONGEST = max(CHUNK_BYTES, MAX_ROW_BYTES)


def encode_chunks(lines: Iterable[bytes]) -> list[bytes]:
    """Return the chunks of some lines."""
    return [_encode(b"\n".join(group)) for group in _group(lines)]


def decode_chunks(chunks: Sequence[bytes]) -> list[bytes]:
    """Return the lines of chunks.

    Raises:
        ValueError: one of them isn't a chunk.
    """
    return [line for chunk in chunks for line in _decode(chunk).split(b"\n")]


def _group(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    group: list[bytes] = []
    size = 0
    for line in lines:
        if group and size + len(line) > CHUNK_BYTES:
            yield group
            group, size = [], 0
        group.append(line)
        size += len(line) + 1
    if group:
        yield group


def _encode(data: bytes) -> bytes:
    compressed = zlib.compress(data)
    return _COMPRESSED + compressed if len(compressed) < len(data) else _PLAIN + data


def _decode(chunk: bytes) -> bytes:
    if chunk[:1] == _PLAIN:
        return chunk[1:]
    if chunk[:1] != _COMPRESSED:
        raise ValueError("it begins with neither 'z' nor 'p'")
    decompressor = zlib.decompressobj()
    try:
        data = decompressor.decompress(chunk[1:], _LONGEST)
    except zlib.error as exc:
        raise ValueError(str(exc)) from None
    if not decompressor.eof:
        raise ValueError("it is cut off, or longer than a chunk can be")
    return data
