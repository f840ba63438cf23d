"""The health endpoints of a process, as an orchestrator asks them."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass

from tests.harness.waiting import wait_until


@dataclass(frozen=True)
class Answer:
    """What an endpoint has answered: its HTTP status, and the problem of each check that fails."""

    status: int
    checks: frozenset[str]
    problems: dict[str, str]


def ask(port: int, endpoint: str) -> Answer:
    """Return an endpoint's answer, which has to come as fast as an orchestrator wants it."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{endpoint}", timeout=3) as page:
            status, body = page.status, json.load(page)
    except urllib.error.HTTPError as error:
        status, body = error.code, json.load(error)
    assert body["status"] == ("ok" if status == 200 else "failing")
    problems = {name: check["problem"] for name, check in body["checks"].items() if check["status"] != "ok"}
    assert all(problems.values())
    return Answer(status, frozenset(body["checks"]), problems)


def await_problems(port: int, endpoint: str, *names: str, timeout_s: float = 20) -> dict[str, str]:
    """Wait until exactly these checks of an endpoint fail, and return their problems."""

    def found() -> Answer | None:
        answer = ask(port, endpoint)
        return answer if set(answer.problems) == set(names) else None

    answer = wait_until(found, f"{endpoint} to fail for {names or 'nothing'}", timeout_s=timeout_s)
    assert answer.status == (503 if names else 200)
    return answer.problems


def is_refused(port: int) -> bool:
    """Check whether nobody listens any more."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=3).close()
    except urllib.error.HTTPError:
        return False
    except OSError:  # or its process ends just now
        return True
    return False
