"""The Elixir side of the follow benchmark: a stand-in with many sessions, which changes some of them each second.

Reads ``change SECONDS PER_SECOND`` from stdin, makes those changes and answers with one line of JSON: each change as
session, value and Unix time, and the calls that it was asked meanwhile.
"""

from __future__ import annotations

import json
import random
import sys
import time

from snakepit_bridge.testing.elixir.server import BridgeServer


def main(sessions: int, variables: int, watch: bool) -> None:
    """Serve until stdin ends."""
    with BridgeServer(watch=watch) as elixir:
        for session in range(sessions):
            elixir.begin(f"s{session}")
            for variable in range(variables):
                elixir.register(f"s{session}", f"v{variable}", "integer", 0)
        _say({"address": elixir.address})
        for line in sys.stdin:
            _, seconds, per_s = line.split()
            _say(_change(elixir, sessions, variables, float(seconds), float(per_s)))


def _change(elixir: BridgeServer, sessions: int, variables: int, seconds: float, per_s: float) -> dict[str, object]:
    before, begun = elixir.calls.total(), time.monotonic()
    changes: list[tuple[str, int, float]] = []
    while (due := begun + len(changes) / per_s) < begun + seconds:
        time.sleep(max(0.0, due - time.monotonic()))
        session = f"s{random.randrange(sessions)}"
        elixir.set(session, f"v{random.randrange(variables)}", len(changes) + 1)
        changes.append((session, len(changes) + 1, time.time()))
    return {"changes": changes, "calls": elixir.calls.total() - before, "seconds": time.monotonic() - begun}


def _say(what: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "watch")
