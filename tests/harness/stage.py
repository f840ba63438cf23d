"""A stage for the fleet's tests: a server, a recording LM, LM profiles and a worker process of the real app.

A module of tests shares one, since a worker takes seconds to load DSPy; a test keeps to sessions, programs and
questions of its own, and to the LM's requests that ask them.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from redis import Redis

from snakepit_bridge.client import Fleet
from snakepit_bridge.encryption.cipher import NO_ENCRYPTION, EncryptionOptions
from snakepit_bridge.encryption.keys import KeyRing
from snakepit_bridge.exceptions import DeadlineExceededError
from snakepit_bridge.testing import Answerer, AskedQuestion, Recorded, RecordingLM
from tests.harness import servers
from tests.harness.containers import LocalTestWorker, WorkerSpec, local_redis, local_worker
from tests.harness.leaks import leaked_keys
from tests.harness.waiting import PATIENCE_S, wait_until

LM_KEY = "sesame"

# `down` is a port that nobody listens on, `locked` has another key than the LM asks for, `hasty` can't wait.
_PROFILES = """\
default = "demo"

[profiles.demo]
model = "openai/demo"
models = ["openai/other"]
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"
price = {{ input = 1000, output = 1000 }}

[profiles.locked]
model = "openai/locked"
api_base = "{url}"
api_key_env = "STAGE_WRONG_KEY"

[profiles.hasty]
model = "openai/hasty"
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"
limits = {{ timeout_s = 0.5 }}

[profiles.down]
model = "openai/down"
api_base = "http://127.0.0.1:9/v1"
api_key_env = "STAGE_LM_KEY"
"""


def echo(ask: AskedQuestion) -> Mapping[str, Any]:
    """Answer a text with the question itself, so that every answer tells which question it belongs to."""
    question = next(iter(ask.inputs.values()), "")
    texts = [output.name for output in ask.layout.outputs if output.annotation == "str"]
    return {name: f"{name} of {question}" for name in texts if name != "next_tool_name"}


@dataclass(frozen=True)
class Stage:
    """What a module of tests plays on."""

    url: str
    fleet: Fleet
    lm: RecordingLM
    settings: Mapping[str, str]
    app: Celery | None = None
    workers: list[LocalTestWorker] = field(default_factory=list)
    _running: ExitStack = field(default_factory=ExitStack, repr=False)

    @property
    def worker(self) -> LocalTestWorker:
        """The first worker."""
        return self.workers[0]

    def start(self, *, wait: bool = True, env: Mapping[str, str] | None = None, **changes: Any) -> LocalTestWorker:
        """Start one more worker; keywords are fields of the spec."""
        spec = replace(WorkerSpec(env={**self.settings, **(env or {})}, preloaded=True), **changes)
        worker = self._running.enter_context(local_worker(spec, self.url, self.app, wait=wait))
        self.workers.append(worker)
        return worker

    def requests_with(self, text: str) -> list[Recorded]:
        """The LM's requests with this text among their inputs, oldest first."""
        return [request for request in self.lm.requests if any(text in value for value in request.inputs.values())]

    def await_asked(self, text: str, count: int = 1) -> list[Recorded]:
        """Wait until the LM has received so many requests with this text."""
        return wait_until(
            lambda: found if len(found := self.requests_with(text)) >= count else None,
            f"{count} requests with {text!r}",
        )

    def expire_at_lm(self, program: str, question: str, deadline_s: float) -> DeadlineExceededError:
        """Have a prediction expire while the LM, which has to hang, holds its request, and return its error.

        One that expires on its way there, as the machine is busy, is sent again with more time.
        """
        handle = self.fleet.submit(program, {"question": question}, deadline=deadline_s)
        with pytest.raises(DeadlineExceededError) as expired:
            handle.get(deadline_s + PATIENCE_S)
        return expired.value if self.requests_with(question) else self.expire_at_lm(program, question, 2 * deadline_s)

    @contextmanager
    def held(self) -> Generator[None]:
        """Within it the workers take no new predictions; they do again after it."""
        control = self.fleet.app.control
        assert control.cancel_consumer(self.fleet.queue, reply=True, timeout=PATIENCE_S, limit=len(self.workers))
        # The reply comes before the queue is cancelled, and kombu's hub runs what two commands have asked in any order.
        wait_until(self._takes_nothing, "the queue to be cancelled")
        try:
            yield
        finally:
            assert control.add_consumer(self.fleet.queue, reply=True, timeout=PATIENCE_S, limit=len(self.workers))

    def _takes_nothing(self) -> bool:
        options = {"reply": True, "timeout": 5, "limit": len(self.workers)}
        replies = self.fleet.app.control.broadcast("active_queues", **options)
        consumed = {queue["name"] for reply in replies for queues in reply.values() for queue in queues}
        return bool(replies) and self.fleet.queue not in consumed


@contextmanager
def stage(
    folder: Path,
    *,
    worker: bool = True,
    pool: str = "asyncio",
    more_profiles: str = "",
    answer: Answerer = echo,
    server: str = servers.DEFAULT,
    url: str | None = None,
    app: Celery | None = None,
    encryption: EncryptionOptions = NO_ENCRYPTION,
    signing_keys: KeyRing | None = None,
    **env: str,
) -> Generator[Stage]:
    """Set a stage, and at its end look for keys that would stay for ever.

    Args:
        folder: for the LM profiles' file.
        worker: whether a worker is up; one of four at a time.
        pool: its Celery pool.
        more_profiles: further LM profiles as TOML, with ``{url}`` for the LM's.
        answer: what the LM answers.
        server: the kind of server, see ``tests.harness.servers``.
        url: of a Redis that runs already, instead of one of its own; what stays there is the caller's to look at.
        app: the Celery app to send with, for another broker than that Redis.
        encryption: how the client encrypts; what the workers' settings in ``env`` say as well.
        signing_keys: by which the client signs.
        env: further settings of the workers.
    """
    with ExitStack() as own, RecordingLM(answer, api_key=LM_KEY) as lm:
        given = url
        url = url or own.enter_context(local_redis(kind=server)).celeryconfig["host_url"]
        profiles = folder / "profiles.toml"
        profiles.write_text((_PROFILES + more_profiles).format(url=lm.url), encoding="utf-8")
        settings = {
            "DSPEX_LM_PROFILES": str(profiles),
            "DSPEX_RETRY_BACKOFF_S": "0.05",
            # By a count, since a test of what becomes of a failure needn't wait for a minute.
            "DSPEX_TASK_ATTEMPTS": "3",
            "DSPEX_REQUIREMENT_WAIT_S": "0.3",
            "STAGE_LM_KEY": LM_KEY,
            "STAGE_WRONG_KEY": "wrong",
            **env,
        }
        playing = Stage(
            url, Fleet(url, app=app, wait_s=30, encryption=encryption, signing_keys=signing_keys), lm, settings, app
        )
        with playing._running:
            if worker:
                playing.start(pool=pool, concurrency=4)
            yield playing
        if given is not None:
            return
        with Redis.from_url(url) as client:
            leaked = leaked_keys(client)
        assert not leaked, f"Keys without an expiry that tests/harness/leaks.py doesn't list as permanent: {leaked}"


def fresh(name: str) -> str:
    """Return a name that no other test uses, for sessions, programs and questions."""
    return f"{name}-{uuid4().hex[:8]}"
