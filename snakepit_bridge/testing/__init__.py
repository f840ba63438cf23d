"""The users' test kit: an LM server that records what DSPy really sent, scripted answers, and assertions that show it.

    with RecordingLM(scripted(["Paris"])) as lm:
        with dspy.context(lm=dspy.LM("openai/demo", api_base=lm.url, api_key="x", cache=False, num_retries=0)):
            assert dspy.Predict("question -> answer")(question="Capital of France?").answer == "Paris"
        lm.assert_sent(model="demo")

The server needs the ``server`` extra: ``pip install dspex-fleet[server]``.
"""

from __future__ import annotations

from snakepit_bridge.testing.answers import STAND_IN, Answerer, Raw, complete, default_answer, scripted
from snakepit_bridge.testing.faults import Fault, Faults
from snakepit_bridge.testing.prompts import Ask, Layout, OutputField, read_ask
from snakepit_bridge.testing.record import Recorded, assert_sent
from snakepit_bridge.testing.server import RecordingLM

__all__ = [
    "RecordingLM",
    "Recorded",
    "assert_sent",
    "Answerer",
    "Raw",
    "scripted",
    "default_answer",
    "complete",
    "STAND_IN",
    "Ask",
    "Layout",
    "OutputField",
    "read_ask",
    "Fault",
    "Faults",
]
