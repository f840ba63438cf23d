"""Assign requests to the arms of a rollout or an experiment: sticky, uniform, and the same in every language.

A key's bucket is the first 8 bytes of SHA-256 of the salt, a zero byte and the key, as an unsigned big-endian number.
Shares are whole millionths, and all arithmetic is on integers, so that no language rounds an edge another way. The test
vectors are in ``tests/vectors/assignment.json``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from decimal import Decimal

from snakepit_bridge.protocol.targeting import MAX_KEY_BYTES

MILLION = 1_000_000
"""The whole, in the unit of shares."""

_BUCKETS = 1 << 64


def bucket(salt: str, key: str) -> int:
    """Return a key's bucket, from 0 to 2^64 - 1.

    Args:
        salt: the rollout's, without a zero character, so that rollouts try different keys first.
        key: the targeting key.

    Raises:
        ValueError: the salt has a zero character, or the key is longer than ``MAX_KEY_BYTES``.
    """
    encoded = key.encode("utf-8", "surrogatepass")
    if len(encoded) > MAX_KEY_BYTES:
        raise ValueError(f"A targeting key has at most {MAX_KEY_BYTES} bytes; this one has {len(encoded)}.")
    if "\0" in salt:
        raise ValueError("A salt has no zero character.")
    digest = hashlib.sha256(salt.encode() + b"\0" + encoded).digest()
    return int.from_bytes(digest[:8], "big")


def is_candidate(salt: str, key: str, share: int) -> bool:
    """Check whether a key belongs to the candidate at a share; with a larger share it still does.

    Args:
        salt: the rollout's.
        key: the targeting key.
        share: of the candidate, in millionths.
    """
    return is_within(bucket(salt, key), 0, share)


def is_within(number: int, from_share: int, to_share: int) -> bool:
    """Check whether a bucket is in a range of a layer; ranges that meet at a share have no bucket in common.

    Args:
        number: the bucket.
        from_share, to_share: where the range begins, and the first share behind it, in millionths.
    """
    return from_share * _BUCKETS // MILLION <= number < to_share * _BUCKETS // MILLION


def choose_arm(salt: str, key: str, weights: Sequence[int]) -> int:
    """Return the index of a key's arm.

    Args:
        salt: the experiment's, or its layer's.
        key: the targeting key.
        weights: of the arms, in millionths; together a million.

    Raises:
        ValueError: the weights don't sum up to a million.
    """
    if sum(weights) != MILLION or min(weights) < 0:
        raise ValueError(f"Weights are positive and sum up to {MILLION}; these are {list(weights)}.")
    number, total = bucket(salt, key), 0
    for index, weight in enumerate(weights):
        total += weight
        if number < total * _BUCKETS // MILLION:
            return index
    raise AssertionError("a bucket is below 2^64")


def parse_share(value: object) -> int:
    """Return a share in millionths.

    Args:
        value: a number from 0 to 1, with at most six decimals.

    Raises:
        ValueError: it is something else.
    """
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    share = Decimal(str(value)) if is_number else Decimal("nan")
    if not share.is_finite() or not 0 <= share <= 1 or share * MILLION % 1:
        raise ValueError(f"A share is a number from 0 to 1 with at most six decimals; got {value!r}.")
    return int(share * MILLION)
