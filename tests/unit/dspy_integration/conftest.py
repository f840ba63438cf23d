"""A recording LM, DSPy set up to ask it, and a session in this process's memory."""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterator

import dspy
import pytest

from snakepit_bridge.session_context import SessionContext
from snakepit_bridge.testing import RecordingLM


@pytest.fixture(scope="module")
def lm_server() -> Generator[RecordingLM]:
    with RecordingLM() as server:
        yield server


@pytest.fixture
def lm(lm_server: RecordingLM) -> Iterator[RecordingLM]:
    """The recording LM as the ambient one, with nothing recorded yet."""
    lm_server.clear()
    ambient = dspy.LM("openai/demo", api_base=lm_server.url, api_key="x", cache=False, num_retries=0)
    with dspy.context(lm=ambient):
        yield lm_server


@pytest.fixture
def session() -> SessionContext:
    """A session of this test's own, with variables for what is bound most."""
    context = SessionContext(f"s-{uuid.uuid4().hex}")
    context.blocking.set_variables({"temp": 0.3, "limit": 77, "text": "Be brief.", "llm": "openai/other"})
    return context
