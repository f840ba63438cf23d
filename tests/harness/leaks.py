"""Finds Redis keys that would stay for ever: each key has an expiry, or stands here with the reason why it has none."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from redis import Redis

PERMANENT: dict[str, str] = {
    r"_kombu\.binding[._].*": "the broker's routing table, one entry per queue",
    r"([A-Za-z0-9_-]+\.)?predictions.*": "a queue; Redis removes it with its last message",
    r"celery.*": "the same for Celery's default queue",
    r"unacked.*": "messages that a worker holds; they go with its ack",
    r"[^{}]*:delivery:(workers|ticks|held:.*|delayed|dead|dead:entries)": "messages held, delayed or dead",
    r"[^:{]+:\{limits\}:(lane:.*|sessions:.*|messages|parked|waiting|deadlines)": "what waits for a limit",
    r"[^:{]+:\{lm-batches\}:(parked|open:.*|deadlines|requests|profiles|waiting:.*|members:.*|batches)": "what waits "
    "for a batch of LM calls",
    r"[^:{]+:format": "the number of the format of the fleet's data",
    r"[^:{]+:sessions": "the index of sessions",
    r"[^:{]+:staged": "the index of sessions with a rollout or experiments",
    r"[^:{]+:\{.*\}:(head|variables|history|labels|labelled|checks|rollouts|experiments)": "a session",
    r"[^:{]+:programs": "the index of programs",
    r"[^:{]+:\{p:.*\}:(versions|lineage|spec:.*)": "a registered program, which is never changed or removed",
    r"[^:{]+:\{p:.*\}:(rollouts|experiments):.*": "what has happened to a label, the latest thousand events",
    r"[^:{]+:evaluations": "the index of evaluations",
    r"[^:{]+:jobs": "the index of jobs",
    r"[^:{]+:datasets": "the index of datasets",
    r"[^:{]+:\{d:.*\}:(versions|content:.*)": "a dataset, of which a version is never changed",
    r"[^:{]+:audit": "who changed what, the newest entries",
    r"[^:{]+:protections": "the rules that protect sessions and labels",
    r"[^:{]+:rollouts": "the index of what is staged",
}
"""Patterns of whole key names, and why keys of that name have no expiry."""


def leaked_keys(client: Redis, allowed: Iterable[str] = ()) -> list[str]:
    """Return the keys of the client's database that never expire and that no pattern of ours or the caller's names."""
    kept = permanent(allowed)
    answer: Any = client.keys("*")
    names = sorted(_text(key) for key in answer)
    return [name for name in names if not kept(name) and client.ttl(name) == -1]


def permanent(allowed: Iterable[str] = ()) -> Callable[[str], object]:
    """Return what tells whether a key of some name may stay: one of our patterns or of the caller's names it."""
    return re.compile("|".join(f"(?:{pattern})" for pattern in (*PERMANENT, *allowed))).fullmatch


def _text(key: bytes | str) -> str:
    return key.decode(errors="replace") if isinstance(key, bytes) else key


def connections(url: str) -> set[int]:
    """Return the ids of the connections to a test's own database, but for the one that asks."""
    database = url.rsplit("/", 1)[1]
    with Redis.from_url(url) as client:
        mine = client.client_id()
        return {int(connection["id"]) for connection in client.client_list() if connection["db"] == database} - {mine}
