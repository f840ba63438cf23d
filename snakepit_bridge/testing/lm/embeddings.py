"""The LM server's embeddings: the same vector for the same text, and near ones for texts that share words."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DIMENSIONS = 32

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class EmbeddedTexts:
    """One request for vectors.

    Attributes:
        model: the model asked for.
        texts: what was embedded.
        status: HTTP status of the answer.
    """

    model: str
    texts: tuple[str, ...]
    status: int


def embed_text(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """Return a text's vector of length 1: the sum of one for each of its words, which a digest of the word decides."""
    total = [0.0] * dimensions
    for word in _WORD.findall(text.lower()):
        seed = hashlib.sha256(word.encode()).digest()
        for place in range(dimensions):
            total[place] += seed[place % len(seed)] - 127.5
    length = math.sqrt(sum(number * number for number in total)) or 1.0
    return [number / length for number in total]


def read_texts(content: bytes) -> tuple[str, list[str], int]:
    """Return the model, the texts and the number of dimensions of a request.

    Raises:
        ValueError: it isn't one.
    """
    body: Any = json.loads(content)
    given = body.get("input") if isinstance(body, Mapping) else None
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("the body must be an object with 'input', a text or a list of texts")
    return str(body.get("model", "")), texts, int(body.get("dimensions") or DIMENSIONS)


def reply(model: str, texts: Sequence[str], dimensions: int) -> dict[str, Any]:
    """Return the answer in OpenAI's form. Token counts are estimates, as a quarter of the characters."""
    tokens = sum(map(len, texts)) // 4
    data = [
        {"object": "embedding", "index": place, "embedding": embed_text(text, dimensions)}
        for place, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": model, "data": data, "usage": usage}
