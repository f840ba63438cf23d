"""What a release writes: messages, records and keys, recorded so that later releases are held to reading them.

``python -m tests.harness.golden`` records them for the version of pyproject.toml, once for each release; the recorded
files of a release never change.
"""

from __future__ import annotations

import asyncio
import json
import tomllib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from redis import Redis

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.submission import Reservation
from snakepit_bridge.programs.spec import ProgramSpec
from snakepit_bridge.protocol.messages import PredictionRequest, Requirement, Result
from snakepit_bridge.protocol.provenance import Provenance, Timings
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.data_format import DATA_FORMAT
from snakepit_bridge.rollouts.records import RolloutRecord, RolloutState
from snakepit_bridge.snapshots import RedisStore, Retention
from snakepit_bridge.variables import Variable
from workers.dev.redis_server import EmbeddedRedis

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "golden"
SESSION, QUEUE = "golden", "golden"

PROVENANCE = Provenance(
    "t-1", "shop", "5.2", "at_least=5.2", {"warmth": 0.5}, "qa", 3, "ab" * 32, "Predict", "openai/demo", "demo",
    {"openai/demo": {"total_tokens": 12}}, 1, "worker@host", 42, 1_764_400_000.5, Timings(1.0, 2.0, 3.0, 4.0),
    cost_usd="0.00125",
)  # fmt: skip
REQUEST = PredictionRequest(
    "qa@prod", {"question": "why?"}, "shop", Requirement("at_least", Token(5, 2)), 1_764_400_100.0,
    {"question": "answer"}, 10.0, "serve_stale(60)", stream=True, namespace="dspex", chained=True, key="user-1",
    attributes={"plan": "pro"}, trace=True,
)  # fmt: skip
RESULT = Result({"answer": "42"}, PROVENANCE.encode(), {"question": "why?"}, [{"answer": "42"}, {"answer": "41"}])
SPEC = ProgramSpec.parse(
    {"module": "ChainOfThought", "signature": "question -> answer: float", "bindings": {"temperature": "warmth"},
     "cache": {"ttl_s": 60}},
    program="golden",
)  # fmt: skip
VARIABLES = [
    Variable.declare("warmth", 0.1, "float", {"min": 0, "max": 2}),
    Variable.declare("tries", 10**30, "integer"),
    Variable.declare("style", "kind and brève", "string"),
    Variable.declare("strict", True, "boolean"),
]
ROLLOUT = RolloutRecord("r-1", 7, RolloutState.RUNNING, 2, 300_000, 50_000, 1_764_400_000_000_000, "5.1", "5.2")
RESERVATION = Reservation("cd" * 32, "t-1", "dspex:replies:c-1")


def version() -> str:
    """Return the version of this release."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def releases() -> list[str]:
    """Return the versions that were recorded, oldest first."""
    return sorted((each.name for each in FOLDER.iterdir()), key=lambda name: tuple(map(int, name.split("."))))


def load(release: str, name: str) -> Any:
    """Return what a release has recorded under a name."""
    return json.loads((FOLDER / release / f"{name}.json").read_text(encoding="utf-8"))


def written() -> dict[str, Any]:
    """Return what this version writes of the samples, as JSON values."""
    return {
        "format": str(DATA_FORMAT),
        "request": {"program": REQUEST.program, "inputs": REQUEST.inputs, "keywords": REQUEST.keywords()},
        "result": RESULT.encode(),
        "spec": SPEC.encode().decode(),
        "variables": {variable.name: variable.encode().decode() for variable in VARIABLES},
        "rollout": str(ROLLOUT),
        "reservation": RESERVATION.encode("sent"),
        "retention": str(Retention(10, 60.0, 3_600.0)),
        "token": str(Token(5, 2)),
    }


def record_server(url: str) -> dict[str, Any]:
    """Publish a session and submit predictions on an empty server, and return the keys that they leave."""
    with Redis.from_url(url) as client:
        fleet = Fleet(url, queue=QUEUE)
        asyncio.run(_publish(url))
        fleet.submit("golden", {"question": "why?"})
        fleet.submit("golden", {"question": "why?"}, session=SESSION, idempotency_key="golden")
        fleet.submit_batch("golden", [{"question": "one?"}, {"question": "two?"}])
        lists: Any = client.keys(f"{QUEUE}*")
        messages: Any = [message for name in lists for message in client.lrange(name, 0, -1)]
        head: Any = f"dspex:{{s:{SESSION}}}:"
        entries: Any = client.xrange(f"{head}history")
        return {
            "messages": [json.loads(message) for message in messages],
            "head": _encode(client.hgetall(f"{head}head")),
            "variables": _encode(client.hgetall(f"{head}variables")),
            "history": [[position.decode(), _encode(fields)] for position, fields in entries],
        }


def restore_session(client: Redis, recorded: Mapping[str, Any]) -> None:
    """Write the keys of a recorded session to a server, as a restored backup would."""
    base = f"dspex:{{s:{SESSION}}}:"
    client.zadd("dspex:sessions", {SESSION: 1})
    for name in ("head", "variables"):
        client.hset(f"{base}{name}", mapping=_decode(recorded[name]))
    for position, fields in recorded["history"]:
        client.xadd(f"{base}history", _decode(fields), id=position)  # type: ignore[arg-type]


async def _publish(url: str) -> None:
    store = RedisStore(url)
    await store.publish(SESSION, {variable.name: variable for variable in VARIABLES}, author="golden", reason="first")
    await store.publish(SESSION, {"strict": VARIABLES[3].with_value(False)}, author="golden", reason="second")
    await store.aclose()


def _encode(fields: Any) -> dict[str, str]:
    return {name.decode(): b64encode(value).decode() for name, value in fields.items()}


def _decode(fields: Mapping[str, str]) -> dict[Any, Any]:
    return {name: b64decode(value) for name, value in fields.items()}


def record() -> None:
    """Record this version's samples, unless they are recorded.

    Raises:
        FileExistsError: they are.
    """
    folder = FOLDER / version()
    folder.mkdir()
    with EmbeddedRedis.start() as server:
        found = {"records": written(), "server": record_server(server.url)}
    for name, value in found.items():
        text = json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True)
        (folder / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    record()
