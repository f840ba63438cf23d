"""The cipher: what it writes, for whom, and what it refuses to read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakepit_bridge.encryption.cipher import PLAIN, Cipher, EncryptionOptions, is_encrypted, kind_of
from snakepit_bridge.encryption.keys import KeyRing, generate_key
from snakepit_bridge.exceptions import ConfigurationError, DecryptionError

A, B, DIGESTS = (generate_key(name) for name in ("a", "b", "digests"))


def cipher(*keys: str, namespace: str = "dspex", accepts_plain: bool = False) -> Cipher:
    return EncryptionOptions(KeyRing.parse(" ".join(keys)), accepts_plain=accepts_plain).cipher(namespace)


OLD, BOTH = cipher(A, DIGESTS), cipher(B, DIGESTS, A)


@given(st.binary(min_size=1), st.sampled_from(["variable", "inputs"]))
def test_what_is_encrypted_is_read_in_its_own_place_alone(data: bytes, kind: str) -> None:
    stored = OLD.encrypt(kind, ("s", "x"), data)
    assert stored.startswith(b"encrypted:a:")
    assert OLD.decrypt(kind, ("s", "x"), stored) == data
    for other, place in ((kind, ("s", "y")), (kind, ("sx",)), (kind, ("s x",)), ("other", ("s", "x"))):
        with pytest.raises(DecryptionError, match="changed, or moved"):
            OLD.decrypt(other, place, stored)
    with pytest.raises(DecryptionError):
        cipher(A, DIGESTS, namespace="other").decrypt(kind, ("s", "x"), stored)
    with pytest.raises(DecryptionError):
        OLD.decrypt(kind, ("s", "x"), stored[:-1] + bytes([stored[-1] ^ 1]))
    with pytest.raises(DecryptionError):
        OLD.decrypt(kind, ("s", "x"), stored[:20])


def test_the_first_key_writes_and_any_reads() -> None:
    written = OLD.encrypt("inputs", (), b"x")
    assert BOTH.decrypt("inputs", (), written) == b"x"
    assert BOTH.encrypt("inputs", (), b"x").startswith(b"encrypted:b:")
    with pytest.raises(DecryptionError, match=r"inputs task: it is encrypted with key 'b', and this process has a\."):
        OLD.decrypt("inputs", ("task",), BOTH.encrypt("inputs", ("task",), b"x"))
    assert repr(BOTH) == "Cipher('dspex', keys=('b', 'a'))"


def test_only_values_that_scripts_compare_are_equal_when_they_are_equal() -> None:
    assert OLD.encrypt("variable", ("s", "x"), b"1") == OLD.encrypt("variable", ("s", "x"), b"1")
    assert OLD.encrypt("variable", ("s", "x"), b"1")[12:] != OLD.encrypt("variable", ("s", "y"), b"1")[12:]
    assert OLD.encrypt("inputs", (), b"1") != OLD.encrypt("inputs", (), b"1")
    assert BOTH.encodings("variable", ("s", "x"), b"1") == [OLD.encrypt("variable", ("s", "x"), b"1")]
    migrating = cipher(A, DIGESTS, accepts_plain=True)
    assert migrating.encodings("variable", ("s", "x"), b"1") == [b"1"]
    assert PLAIN.encodings("variable", ("s", "x"), b"1") == []


def test_what_is_unencrypted_is_read_only_where_that_is_set() -> None:
    with pytest.raises(DecryptionError, match="DSPEX_ENCRYPTION_ACCEPTS_PLAIN"):
        OLD.decrypt("inputs", (), b'{"a": 1}')
    assert cipher(A, DIGESTS, accepts_plain=True).decrypt("inputs", (), b'{"a": 1}') == b'{"a": 1}'
    assert PLAIN.encrypt("inputs", (), b"1") == PLAIN.decrypt("inputs", (), b"1") == b"1"
    with pytest.raises(DecryptionError, match="this process has no keys"):
        PLAIN.decrypt("inputs", (), OLD.encrypt("inputs", (), b"1"))


def test_a_text_names_its_kind() -> None:
    text = OLD.encrypt_text("inputs", ("t",), b"1")
    assert is_encrypted(text)
    assert kind_of(text) == "inputs"
    assert OLD.decrypt_text(text, ("t",)) == b"1"
    OLD.check_key(text)
    with pytest.raises(DecryptionError, match="key 'b'"):
        OLD.check_key(BOTH.encrypt_text("inputs", ("t",), b"1"))
    for malformed in ("encrypted:", "encrypted:inputs:a:%%", "encrypted:inputs:a:", text[:-4]):
        with pytest.raises(DecryptionError):
            OLD.decrypt_text(malformed, ("t",))


def test_digests_outlive_a_rotation_and_nobody_else_computes_them() -> None:
    assert OLD.digest("request", b"x") == BOTH.digest("request", b"x")
    assert OLD.digest("request", b"x") != PLAIN.digest("request", b"x")
    assert OLD.digest("request", b"x") != OLD.digest("state", b"x")
    assert OLD.digest("request", b"x") != cipher(A, generate_key("digests")).digest("request", b"x")


@pytest.mark.parametrize(
    ("keys", "lacking"), [((A,), "lacks 'digests'"), ((DIGESTS,), "a key besides 'digests'")], ids=["a", "digests"]
)
def test_keys_that_lack_one_are_refused(keys: tuple[str, ...], lacking: str) -> None:
    with pytest.raises(ConfigurationError, match=lacking):
        cipher(*keys)
