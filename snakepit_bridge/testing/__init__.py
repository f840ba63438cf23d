"""The users' test kit: an LM server that records what DSPy really sent, scripted answers, and assertions that show it.

    with RecordingLM(scripted(["Paris"])) as lm:
        with dspy.context(lm=dspy.LM("openai/demo", api_base=lm.url, api_key="x", cache=False, num_retries=0)):
            assert dspy.Predict("question -> answer")(question="Capital of France?").answer == "Paris"
        lm.assert_sent(model="demo")

The server needs the ``server`` extra: ``pip install dspex-fleet[server]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from snakepit_bridge.testing.lm.answers import STAND_IN, Answerer, Raw, complete, default_answer, scripted
from snakepit_bridge.testing.lm.faults import Fault, Faults
from snakepit_bridge.testing.lm.prompts import AskedQuestion, OutputField, PromptLayout, read_ask
from snakepit_bridge.testing.lm.recording import Recorded, assert_sent
from snakepit_bridge.testing.lm.server import RecordingLM

if TYPE_CHECKING:
    from snakepit_bridge.testing.elixir.quirks import Quirks
    from snakepit_bridge.testing.elixir.server import BridgeServer


def __getattr__(name: str) -> Any:
    # The twin of the snakepit bridge loads gRPC, which tests of modules and prompts have no use for.
    if name == "BridgeServer":
        from snakepit_bridge.testing.elixir.server import BridgeServer

        return BridgeServer
    if name == "Quirks":
        from snakepit_bridge.testing.elixir.quirks import Quirks

        return Quirks
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "BridgeServer",
    "Quirks",
    "RecordingLM",
    "Recorded",
    "assert_sent",
    "Answerer",
    "Raw",
    "scripted",
    "default_answer",
    "complete",
    "STAND_IN",
    "AskedQuestion",
    "PromptLayout",
    "OutputField",
    "read_ask",
    "Fault",
    "Faults",
]
