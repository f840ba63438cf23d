"""Vectors of an LM profile: its endpoint's ``/embeddings``, called through the middleware as its LM is.

A call is one of the LM whose request holds the texts and whose answer is the JSON of their vectors. So the limits,
retries, costs, the journal and a cancellation hold for it without knowing what it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from dspy.lm15 import Config, Message, Request, Response, TextPart

from snakepit_bridge.lm.engine import LMCall, LMEngine, answer_by
from snakepit_bridge.lm.streaming import StreamSink
from snakepit_bridge.process.home_loop import run_blocking

EMBEDDING = "dspex_embedding"
"""The extension that tells such a request from one of the LM. It is never sent."""

DIALECTS = frozenset({"openai-chat", "openai"})
"""The APIs that have such an endpoint, as ``LMEngine.dialect`` names them."""


class EmbeddingEngine(LMEngine):
    """Asks the endpoint of an LM for vectors. It shares the LM's connections and its middleware.

    Args:
        engine: of the LM.
    """

    operation = "embeddings"

    def __init__(self, engine: LMEngine) -> None:
        super().__init__(engine.endpoint, engine._middleware)
        self._backends = engine._backends

    async def embed(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each text.

        Raises:
            lm15.LM15Error: the provider or the connection failed; or what the middleware raises.
        """
        message = Message(role="user", parts=tuple(map(TextPart, texts)))
        request = Request(model=self.endpoint.model, messages=(message,), config=Config(extensions={EMBEDDING: True}))
        response = await self._dispatch(LMCall(self, request))
        vectors: list[list[float]] = json.loads(response.text or "[]")
        return vectors

    async def _send(self, request: Request, pieces: StreamSink | None) -> Response:
        answer_by(self.dialect)
        texts = [part.text for message in request.messages for part in message.parts if isinstance(part, TextPart)]
        return await self._native_backend.embed(texts)


def embed_by(engine: LMEngine) -> Callable[[list[str]], Any]:
    """Return what asks the endpoint of an LM for vectors, in a thread."""
    embedding = EmbeddingEngine(engine)
    return lambda texts: run_blocking(embedding.embed(texts))
