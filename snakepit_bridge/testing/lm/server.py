"""The LM server of the test kit: a real HTTP server on loopback, so that the recorded request is what DSPy sent."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.process.open_files import raise_open_file_limit
from snakepit_bridge.testing.lm.answers import Answerer, default_answer
from snakepit_bridge.testing.lm.batch_stage import BatchStage
from snakepit_bridge.testing.lm.embeddings import EmbeddedTexts
from snakepit_bridge.testing.lm.faults import Fault, Faults
from snakepit_bridge.testing.lm.recording import Recorded, RequestLog, assert_sent, describe

if TYPE_CHECKING:
    from snakepit_bridge.testing.lm.endpoints import Backstage

_START_S = 10.0
_STOP_S = 5.0
_BACKLOG = 1024


class RecordingLM:
    """An OpenAI-compatible server that records each request and answers any DSPy signature.

    It answers on its own thread from ``start()`` to ``stop()``, or inside a ``with`` block. Give DSPy its ``url`` as
    ``api_base``, with ``cache=False`` and ``num_retries=0``.

    Args:
        answerer: what it says; by default a made-up value of the right type for each output field.
        port: 0 takes a free one. It is kept over a restart.
        host: address to listen on.
        api_key: the bearer key that the ``/v1`` endpoints ask for; None asks for none.
        latency_s: seconds before each answer.
        jitter_s: up to that many seconds more.
        keep: how many requests are remembered.
        file: where each request is also written as a JSON line.
        models: the names that GET /v1/models lists; any name is answered.

    Attributes:
        batches: the batches that it was sent, and what goes wrong with them.
        embedded: the requests for vectors, in order. Texts that share words have near ones.
    """

    def __init__(
        self,
        answerer: Answerer = default_answer,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        api_key: str | None = None,
        latency_s: float = 0.0,
        jitter_s: float = 0.0,
        keep: int = 20_000,
        file: Path | None = None,
        models: tuple[str, ...] = ("demo",),
    ) -> None:
        self.port = port
        self.host = host
        self.faults = Faults(latency_s, jitter_s)
        self.batches = BatchStage()
        self.embedded: list[EmbeddedTexts] = []
        self._log = RequestLog(keep, file)
        self._answerer = answerer
        self._api_key = api_key
        self._models = models
        self._thread: threading.Thread | None = None
        self._halt: Callable[[], object] = lambda: None
        self._failed: BaseException | None = None

    def __repr__(self) -> str:
        return f"RecordingLM({self.url if self.port else 'not started'})"

    @property
    def url(self) -> str:
        """The ``api_base`` to give to DSPy, once the server was started."""
        return f"http://{self.host}:{self.port}/v1"

    def start(self) -> Self:
        """Return when the server accepts connections.

        Raises:
            ConfigurationError: the ``server`` extra isn't installed, the port is taken, or it did not come up.
        """
        if self._thread is not None:
            return self
        _server_extra()
        accepting = threading.Event()
        listening = self._listen()
        self._thread = threading.Thread(target=self._work, args=(listening, accepting), name="lm-server", daemon=True)
        self._thread.start()
        if not accepting.wait(_START_S) or self._failed is not None:
            self.stop()
            raise ConfigurationError(f"The LM server did not start: {self._failed or 'no answer in time'}.")
        return self

    def stop(self) -> None:
        """Stop the server and frees its port; hanging requests are dropped. Without effect if it isn't running."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._halt()
        thread.join(_STOP_S)
        self._log.close()
        if thread.is_alive():
            raise ConfigurationError(f"The LM server did not stop within {_STOP_S:g} s: the answerer blocks its loop.")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _listen(self) -> socket.socket:
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Inherited by each connection. asyncio sets it only on sockets that it made itself, and without it an
            # answer's second packet waits 40 ms for the client's acknowledgement.
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listening.bind((self.host, self.port))
            listening.listen(_BACKLOG)
        except OSError as problem:
            listening.close()
            raise ConfigurationError(f"The LM server can't listen on {self.host}:{self.port}: {problem}.") from problem
        self.port = listening.getsockname()[1]
        return listening

    def _work(self, listening: socket.socket, accepting: threading.Event) -> None:
        try:
            asyncio.run(self._serve(listening, accepting.set))
        except BaseException as problem:  # noqa: BLE001 - start() raises it where somebody sees it
            self._failed = problem
            accepting.set()

    async def _serve(self, listening: socket.socket, accepting: Callable[[], None]) -> None:
        loop, stage = asyncio.get_running_loop(), self._stage()
        self._halt = lambda: loop.call_soon_threadsafe(stage.stopping.set)
        with listening:
            await _server_extra().run(stage, listening, accepting)

    def _stage(self) -> Backstage:
        from snakepit_bridge.testing.lm.endpoints import Backstage

        stopping = asyncio.Event()
        return Backstage(
            self._answerer,
            self._log,
            self.faults,
            self._api_key,
            self._models,
            stopping,
            self.batches,
            self.embedded,
        )

    def serve_forever(self, announce: Callable[[str], None]) -> None:
        """Serve in this thread, which must be the main one, until SIGTERM or SIGINT; then it returns.

        Args:
            announce: called once when connections are accepted, with a line of JSON: ``url``, ``host`` and ``port``.
        """
        raise_open_file_limit()
        listening = self._listen()
        ready = json.dumps({"url": self.url, "host": self.host, "port": self.port})

        async def serve() -> None:
            loop = asyncio.get_running_loop()
            # The handler is looked up late: there is nothing to halt before the server runs.
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, lambda: self._halt())  # noqa: PLW0108
            await self._serve(listening, lambda: announce(ready))

        try:
            asyncio.run(serve())
        finally:
            self._log.close()

    # ------------------------------------------------------------------ the record

    @property
    def requests(self) -> list[Recorded]:
        """The requests so far, in order of arrival, those under way included."""
        return self._log.since()

    def clear(self) -> None:
        """Forget the requests so far."""
        self._log.clear()

    def wait_for_requests(self, count: int, timeout_s: float = 10.0) -> list[Recorded]:
        """Return the requests once so many have arrived; blocks, so call it through a thread from a coroutine.

        Raises:
            AssertionError: they did not arrive in time; the message shows those that did.
        """
        if not self._log.wait_for(lambda records: len(records) >= count, timeout_s):
            shown = describe(self.requests, {"model": None, "inputs": None})
            raise AssertionError(f"expected {count} requests within {timeout_s:g} s; {shown}")
        return self.requests

    def assert_sent(self, **expected: Any) -> None:
        """Assert that a request carried these values, such as ``temperature=0.9``; a callable tests the value."""
        assert_sent(self.requests, expected)

    def assert_all_sent(self, **expected: Any) -> None:
        """Assert that there were requests and that each of them carried these values."""
        assert_sent(self.requests, expected, every=True)

    # ------------------------------------------------------------------ the faults

    def delay(self, latency_s: float, jitter_s: float = 0.0) -> None:
        """Let each answer wait from now on."""
        self.faults.delay(latency_s, jitter_s)

    def pace(self, characters: int | None, pause_s: float = 0.0) -> None:
        """Let streamed answers come in pieces of so many characters from now on, with a pause before each."""
        self.faults.pace(characters, pause_s)

    def fail(
        self,
        times: int | None = 1,
        *,
        status: int = 503,
        retry_after_s: float | None = None,
        body: Any = None,
        containing: str = "",
    ) -> None:
        """Answer the next requests with an error; ``times=None`` all of them until ``faults.clear()``."""
        self.faults.add(Fault("status", times, status, body, retry_after_s, containing))

    def hang(self, times: int | None = 1, *, containing: str = "") -> None:
        """Leave the next requests without an answer, until the client goes away."""
        self.faults.add(Fault("hang", times, containing=containing))

    def drop(self, times: int | None = 1, *, containing: str = "") -> None:
        """Close the connection in the middle of the next answers."""
        self.faults.add(Fault("close", times, containing=containing))

    def garble(self, times: int | None = 1, *, containing: str = "") -> None:
        """Answer the next requests with text that no adapter can parse."""
        self.faults.add(Fault("malformed", times, containing=containing))

    def say(
        self,
        body: Any,
        times: int | None = 1,
        *,
        status: int = 200,
        content_type: str = "application/json",
        cut: int | None = None,
        containing: str = "",
    ) -> None:
        """Answer the next requests word for word, as no well-behaved server would."""
        fault = Fault("raw", times, status, body, containing=containing, content_type=content_type, cut=cut)
        self.faults.add(fault)

    def cut(self, after: int, times: int | None = 1, *, clean: bool = False, containing: str = "") -> None:
        """End the next answers after so many bytes of their body: by breaking off, or as if they were whole."""
        self.faults.add(Fault("cut", times, containing=containing, cut=after, clean=clean))


def _server_extra() -> ModuleType:
    try:
        from snakepit_bridge.testing import uvicorn_server
    except ModuleNotFoundError as missing:
        raise ConfigurationError(
            f"The LM server needs {missing.name}, which isn't installed: pip install dspex-fleet[server]"
        ) from missing
    return uvicorn_server
