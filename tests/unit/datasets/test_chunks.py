"""Chunks give their lines back, each is bounded, and one that would unpack to more than that is refused."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakepit_bridge.datasets.chunks import CHUNK_BYTES, decode_chunks, encode_chunks
from snakepit_bridge.datasets.rows import MAX_ROW_BYTES

LINES = st.lists(st.binary(min_size=1, max_size=200).filter(lambda line: b"\n" not in line), min_size=1)


@given(LINES)
def test_lines_come_back(lines: list[bytes]) -> None:
    assert decode_chunks(encode_chunks(lines)) == lines


def test_a_chunk_is_bounded_and_a_longer_line_is_a_chunk_by_itself() -> None:
    lines = [b"x" * size for size in (100_000, 300_000, 300_000, MAX_ROW_BYTES, 5)]
    chunks = encode_chunks(lines)
    assert [len(decode_chunks([chunk])) for chunk in chunks] == [2, 1, 1, 1]
    assert decode_chunks(chunks) == lines


def test_what_unpacks_to_more_than_a_chunk_is_refused() -> None:
    bomb = b"z" + zlib.compress(b"x" * 2 * max(CHUNK_BYTES, MAX_ROW_BYTES))
    with pytest.raises(ValueError, match="longer than a chunk can be"):
        decode_chunks([bomb])
