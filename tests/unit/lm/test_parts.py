"""Parts that no canonical request carries: texts stand for them, and what is sent is the message itself."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
import pytest
from pydantic import SecretStr

from snakepit_bridge.lm.extensions import replace_opaque_parts
from snakepit_bridge.lm.profiles import LMProfile, LMProfiles
from snakepit_bridge.testing import RecordingLM

SOUND = {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}
FILE = {"type": "file", "file": {"file_data": "data:text/plain;base64,aGk=", "filename": "a.txt"}}
TEXT = {"type": "text", "text": "hear this"}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}


def messages_of(*parts: Any) -> list[Any]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": list(parts)}]


def profile_lm(lm: RecordingLM, **fields: Any) -> Any:
    return LMProfiles([LMProfile("demo", "openai/demo", lm.url, SecretStr("k"), **fields)]).choose("demo").lm


def test_messages_that_every_client_can_send_stay_as_they_are() -> None:
    for messages in (messages_of(TEXT, IMAGE), [{"role": "user", "content": "text"}], None, "text", []):
        assert replace_opaque_parts(messages) is None


def test_equal_parts_have_equal_texts_and_others_other_texts() -> None:
    """The texts are what a shared answer is found by."""
    first, same, other = (replace_opaque_parts(messages_of(TEXT, part)) for part in (SOUND, dict(SOUND), FILE))
    assert first == same != other
    assert first[1]["content"][0] == TEXT
    assert first[1]["content"][1]["type"] == "text"
    assert "aGk=" not in str(first)


@pytest.mark.parametrize("part", [SOUND, FILE, {"type": "document", "source": {"type": "text", "data": "x"}}])
@pytest.mark.parametrize("how", ["called", "awaited"])
def test_such_messages_are_sent_as_they_are(part: Any, how: str) -> None:
    messages = messages_of(TEXT, part, IMAGE)
    with RecordingLM() as server:
        lm = profile_lm(server)
        if how == "called":
            lm(messages=messages)
        else:
            asyncio.run(lm.acall(messages=messages))
        [sent] = server.requests
    assert sent.body["messages"] == messages
    assert "dspex_messages" not in str(sent.body)
    assert messages == messages_of(TEXT, part, IMAGE)


def test_the_next_call_has_nothing_of_it() -> None:
    with RecordingLM() as server:
        lm = profile_lm(server)
        lm(messages=messages_of(TEXT, SOUND))
        lm(messages=messages_of(TEXT))
        lm("text", temperature=0.5)
        first, second, third = server.requests
    assert first.body["messages"] == messages_of(TEXT, SOUND)
    assert "audio" not in str(second.body)
    assert "audio" not in str(third.body)


def test_a_sound_reaches_the_lm_by_a_program() -> None:
    signature = dspy.make_signature({"sound": (dspy.Audio, dspy.InputField()), "answer": (str, dspy.OutputField())})
    with RecordingLM() as server:
        with dspy.context(lm=profile_lm(server)):
            dspy.Predict(signature)(sound=dspy.Audio(data="aGk=", audio_format="wav"))
        [sent] = server.requests
    assert SOUND in sent.body["messages"][1]["content"]
