"""What no request can carry is told by name and reason when a profile is made, and the value never."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from dspy.lm15 import ConfigurationError as LM15ConfigurationError
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.lm.http_fields import find_header_problem, find_key_problem, find_url_problem
from snakepit_bridge.lm.profiles import LMProfile
from snakepit_bridge.lm.transport import CheckedTransport


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("sk-canary\n", "ends in a line break"),
        ("sk-canary\r\n", "ends in a line break"),
        ("\nsk-canary", "begins with a line break"),
        (" sk-canary", "begins or ends with a blank"),
        ("sk-canary\t", "begins or ends with a blank"),
        ("sk-\ncanary", "holds a line break"),
        ("sk canary", "holds a blank"),
        ("sk-canary\0", "control character"),
        ("sk-c\u0430nary", "outside Latin-1"),
        ("sk-canàry", "outside ASCII"),
        ("'sk-canary'", "quotation marks"),
        ("", "is empty"),
        ("  \n", "is blank"),
    ],
)
def test_a_key_that_cannot_be_sent_names_its_variable_and_not_its_value(key: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        LMProfile("smart", "openai/x", api_key=SecretStr(key), key_name="MY_KEY")
    text = str(refused.value)
    assert says in text
    assert "MY_KEY" in text
    assert "'smart'" in text
    assert "anary" not in text


@given(st.text())
def test_a_key_that_passes_can_be_sent(key: str) -> None:
    if find_key_problem(key) is None:
        assert f"Bearer {key}".encode("latin-1").isascii()
        assert not set(key) & set("\r\n\0 ")


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"X-Team": "canary\r\nX-Admin: 1"}, "X-Team holds a line break"),
        ({"X-Team": "canary☃"}, "X-Team holds a character"),
        ({"X Team": "canary"}, "the name 'X Team'"),
        ({"X-Team": 7}, "X-Team must be a text"),
        ("X-Team: canary", "the name ''"),
    ],
)
@pytest.mark.parametrize("where", ["headers", "extra_headers"])
def test_a_header_that_cannot_be_sent_is_refused(headers: Any, says: str, where: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        LMProfile("smart", "openai/x", parameters={where: headers})
    assert says in str(refused.value)
    assert f"parameters.{where}" in str(refused.value)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "", "ftp://host/v1", "http://", "http://host:99999/", "http://h\n/v1"]
)
def test_an_endpoint_that_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="its api_base"):
        LMProfile("smart", "openai/x", api_base=url)


def test_what_can_be_sent_passes() -> None:
    LMProfile(
        "smart",
        "openai/x",
        "http://localhost:8000/v1",
        SecretStr("sk-proj_0.1/x=="),
        parameters={"extra_headers": {"X-Team": "Zürich"}},
    )
    assert find_url_problem("https://[::1]:8443/v1?api-version=2024") is None
    assert find_header_problem("X-Team", "a\tb") is None


@pytest.mark.parametrize(
    ("url", "key"), [("https://lm.example/v1", "sk-canary\n"), ("https://lm.example/v 1", "sk-canary"), ("lm", "sk")]
)
def test_a_request_that_differs_from_the_one_before_is_checked_again(url: str, key: str) -> None:
    transport = CheckedTransport()
    fine = SimpleNamespace(url="https://lm.example/v1", headers=[("authorization", "sk-canary")])
    transport.stream(fine)
    for _ in range(2):
        with pytest.raises(LM15ConfigurationError, match=r"^(?!.*canary)"):
            transport.stream(SimpleNamespace(url=url, headers=[("authorization", key)]))
    transport.stream(fine)
