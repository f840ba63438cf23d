"""A stand-in for an Elixir application that serves snakepit's bridge, with every quirk of the real one on a switch.

    with BridgeServer() as elixir:
        elixir.begin("user-42")
        elixir.register("user-42", "temperature", "float", 0.5, min=0, max=2)
        ...                                # follow elixir.address
        elixir.set("user-42", "temperature", 0.9)
        elixir.restart()                   # all sessions gone, the same ids again

It speaks the wire of snakepit 0.4.3 and runs in threads of this process; ``python -m
snakepit_bridge.testing.elixir.server`` runs it as a process of its own, to be changed over the wire.
"""

from __future__ import annotations

import argparse
import json
import queue
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message import Message

from snakepit_bridge.elixir.generated import snakepit_bridge_pb2 as pb
from snakepit_bridge.testing.elixir.coercion import RefusedCallError
from snakepit_bridge.testing.elixir.quirks import Quirks
from snakepit_bridge.testing.elixir.service import SERVED, STREAMED, Service
from snakepit_bridge.testing.elixir.sessions import StandInSessions

# A stream holds a thread for as long as it is open; threads are made as they are needed.
_THREADS = 8_192
_SILENCE_STEP_S = 0.05


class BridgeServer:
    """The stand-in. ``quirks`` can be turned while it runs.

    Args:
        host, port: where it listens; port 0 takes a free one, and keeps it over restarts.
        quirks: what is odd about it.
        seed: of the choice of calls that a flaky server fails.

    Attributes:
        calls: how often each method was called, over all restarts.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, *, quirks: Quirks | None = None, seed: int = 0, **turned: Any
    ) -> None:
        self.quirks = quirks or Quirks(**turned)
        self.calls: Counter[str] = Counter()
        self._host, self._port = host, port
        self._random = random.Random(seed)
        self._watchers: dict[str, set[queue.SimpleQueue[str | None]]] = {}
        self._service = self._born()
        self._server: grpc.Server | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """``HOST:PORT``, which restarts leave as it is."""
        return f"{self._host}:{self._port}"

    def start(self) -> None:
        """Listen; what was registered before the start is there.

        Raises:
            RuntimeError: the port is taken.
        """
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", self.quirks.concurrent_streams),
        ]
        self._server = grpc.server(ThreadPoolExecutor(_THREADS, thread_name_prefix="bridge"), options=options)
        self._server.add_generic_rpc_handlers((_handlers(self._unary, self._stream),))
        self._port = self._server.add_insecure_port(self.address)
        self._server.start()

    def stop(self) -> None:
        """Stop listening and breaks off what is under way; the sessions stay for the next start."""
        if self._server is not None:
            stopping, self._server = self._server.stop(None), None
            self._end_streams()
            stopping.wait()

    def restart(self, down_s: float = 0.0) -> None:
        """End the server's life and begins another after some seconds: no sessions, and ids from 1 again."""
        self.stop()
        time.sleep(down_s)
        self.forget()
        self.start()

    def forget(self) -> None:
        """Lose every session, as a crash of the session store does."""
        self._service = self._born()

    def begin(self, session: str) -> None:
        """Make a session exist."""
        self._service.sessions.begin(session)

    def end(self, session: str) -> None:
        """End a session, as its expiry does."""
        self._service.sessions.end(session)

    def register(self, session: str, name: str, kind: str, value: Any, **constraints: Any) -> str:
        """Register a variable and return its id; a name that is taken gets a second one."""
        return self._service.sessions.register(session, name, kind, value, json.dumps(constraints), {})

    def set(self, session: str, identifier: str, value: Any) -> int:
        """Set a variable and return its version."""
        return self._service.sessions.set(session, identifier, value)

    def delete(self, session: str, identifier: str) -> None:
        """Delete a variable."""
        self._service.sessions.delete(session, identifier)

    def value(self, session: str, identifier: str) -> Any:
        """Return a variable's value."""
        return self._service.sessions.variable(session, identifier).value

    def spoil(self, session: str, identifier: str, *, odd: bool = True) -> None:
        """Give a variable metadata that breaks every answer that holds it; ``odd=False`` mends it."""
        self._service.sessions.spoil(session, identifier, odd)

    def turn(self, **quirks: Any) -> None:
        """Turn switches by name.

        Raises:
            AttributeError: there is no such switch.
        """
        for name, value in quirks.items():
            getattr(self.quirks, name)
            setattr(self.quirks, name, value)
        self._service.sessions.forget_listings()

    def serve_forever(self, announce: Callable[[str], None]) -> None:
        """Run until SIGTERM or SIGINT; announces a JSON line with the address when it listens."""
        ended = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: ended.set())
        with self:
            announce(json.dumps({"address": self.address}))
            ended.wait()

    def _born(self) -> Service:
        return Service(StandInSessions(self.quirks, self._tell))

    def _unary(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        self._behave(method, context)
        try:
            return SERVED[method][1](self._service, request)
        except RefusedCallError as refused:
            context.abort(refused.status, refused.details)

    def _stream(self, _: str, request: pb.WatchVariablesRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        self._behave("WatchVariables", context)
        if not self.quirks.watch:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "WatchVariables is not implemented")
        changed_ids: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        if not context.add_callback(lambda: changed_ids.put(None)):
            return
        watchers = self._watchers.setdefault(request.session_id, set())
        watchers.add(changed_ids)
        try:
            yield from self._service.updates(request, iter(changed_ids.get, None))
        except RefusedCallError as refused:
            context.abort(refused.status, refused.details)
        finally:
            watchers.discard(changed_ids)

    def _behave(self, method: str, context: grpc.ServicerContext) -> None:
        self.calls[method] += 1
        if self.quirks.latency_s:
            time.sleep(self.quirks.latency_s)
        while self.quirks.silent and context.is_active():
            time.sleep(_SILENCE_STEP_S)
        if self.quirks.flaky and self._random.random() < self.quirks.flaky:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the stand-in is flaky")

    def _tell(self, session: str, id: str) -> None:
        if not self.quirks.mute_watch:
            for watcher in tuple(self._watchers.get(session, ())):
                watcher.put(id)

    def _end_streams(self) -> None:
        for watchers in tuple(self._watchers.values()):
            for watcher in tuple(watchers):
                watcher.put(None)


def _handlers(unary: Callable[..., Any], stream: Callable[..., Any]) -> grpc.GenericRpcHandler:
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for method, (request, _) in SERVED.items():
        handlers[method] = grpc.unary_unary_rpc_method_handler(_bound(unary, method), request.FromString, _written)
    for method, request in STREAMED.items():
        handlers[method] = grpc.unary_stream_rpc_method_handler(_bound(stream, method), request.FromString, _written)
    return grpc.method_handlers_generic_handler("snakepit.bridge.BridgeService", handlers)


def _bound(handle: Callable[..., Any], method: str) -> Callable[[Any, grpc.ServicerContext], Any]:
    return lambda request, context: handle(method, request, context)


def _written(answer: Message | bytes) -> bytes:
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the first line on stdout is JSON with ``address``."""
    parser = argparse.ArgumentParser(prog="python -m snakepit_bridge.testing.elixir.server")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free port; the line on stdout names it")
    parser.add_argument("--watch", action="store_true", help="serve WatchVariables, which snakepit 0.4.3 does not")
    chosen = parser.parse_args(arguments)

    def announce(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    BridgeServer(chosen.host, chosen.port, watch=chosen.watch).serve_forever(announce)
    return 0


if __name__ == "__main__":
    sys.exit(main())
