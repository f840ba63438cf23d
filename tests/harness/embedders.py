"""Functions that embed, for tests of programs that choose examples; a worker names this module in its packages."""

from __future__ import annotations

from snakepit_bridge.testing.lm.embeddings import embed_text

PROFILE = """
[profiles.embedder]
model = "openai/embedder"
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"
price = {{ input = 1000, output = 1000 }}
"""
"""An LM profile that embeds, by the endpoint of the stage's LM."""


def embed(texts: list[str]) -> list[list[float]]:
    """Embed as the LM server's endpoint does."""
    return [embed_text(text) for text in texts]


def embed_shortly(texts: list[str]) -> list[list[float]]:
    """Embed in fewer dimensions."""
    return [embed_text(text, 3) for text in texts]
