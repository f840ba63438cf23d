"""The operator's keys: what is accepted, what is refused by name, and that nothing shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from snakepit_bridge.encryption.cipher import EncryptionOptions
from snakepit_bridge.encryption.environment import read_environment
from snakepit_bridge.encryption.keys import KeyRing, generate_key, read_keys
from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.redaction import redact

KEY = generate_key("a")


def test_keys_are_read_in_order_with_comments_and_shown_nowhere(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# rotated in autumn\n{generate_key('b')}  # writes\n{KEY}\n", encoding="utf-8")
    keys = KeyRing.read(file)
    assert keys.ids == ("b", "a")
    assert keys.newest == "b"
    secret = KEY.partition(":")[2]
    assert secret not in f"{keys!r} {EncryptionOptions(keys)!r} {EncryptionOptions(KeyRing.parse(KEY))!r}"
    assert redact(f"found {secret}") == "found ***"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has no key"),
        ("# nothing", "has no key"),
        (":AAAA", "Key 1 of the keys has no valid id"),
        (f"{KEY} {KEY}", "Key 'a' stands twice"),
        ("a:AAAA", "Key 'a' of the keys isn't 32 bytes in base64"),
        (f"{KEY} b:%", "Key 'b' of the keys isn't 32 bytes in base64"),
    ],
    ids=["empty", "comment", "no id", "twice", "short", "no base64"],
)
def test_malformed_keys_are_refused_without_being_quoted(text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as refused:
        KeyRing.parse(text)
    assert KEY.partition(":")[2] not in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"keys in .*nowhere can't be read: No such file"):
        KeyRing.read(tmp_path / "nowhere")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="isn't UTF-8"):
        KeyRing.read(binary)


def test_keys_stand_in_the_variable_or_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(KEY, encoding="utf-8")
    assert read_keys(None, None, setting="X") is None
    for found in (read_keys(KEY, None, setting="X"), read_keys(None, file, setting="X")):
        assert found is not None
        assert found.ids == ("a",)
    with pytest.raises(ConfigurationError, match="X and X_FILE are both set"):
        read_keys(KEY, file, setting="X")


def test_the_environment_says_how_a_process_encrypts(tmp_path: Path) -> None:
    assert read_environment({}) == EncryptionOptions()
    found = read_environment({"DSPEX_ENCRYPTION_KEYS": KEY, "DSPEX_ENCRYPTION_ACCEPTS_PLAIN": "true"})
    assert found.accepts_plain
    assert found.keys is not None
    with pytest.raises(ConfigurationError, match="must be 1 or 0"):
        read_environment({"DSPEX_ENCRYPTION_ACCEPTS_PLAIN": "perhaps"})


def test_an_id_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="A key's id is"):
        generate_key("a b")
