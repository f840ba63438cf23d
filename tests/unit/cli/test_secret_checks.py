"""What ``doctor`` says of keys, key files, and the way to Redis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from snakepit_bridge.cli.secret_checks import (
    check_keys,
    check_transport,
    check_workers_keys,
)
from snakepit_bridge.encryption.keys import generate_key
from snakepit_bridge.protocol.checks import Check

KEY, DIGESTS = generate_key("a"), generate_key("digests")


def levels(checks: Any) -> dict[str, tuple[str, str]]:
    found: list[Check] = list(checks)
    return {check.what: (check.level, check.found) for check in found}


def test_without_keys_nothing_is_wrong() -> None:
    assert levels(check_keys()) == {"keys of this shell": ("ok", "encrypts nothing; signs nothing")}


def test_keys_are_named_by_their_ids_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{KEY} {DIGESTS} {generate_key('old')}", encoding="utf-8")
    file.chmod(0o600)
    monkeypatch.setenv("DSPEX_ENCRYPTION_KEYS_FILE", str(file))
    monkeypatch.setenv("DSPEX_SIGNING_KEYS", generate_key("s"))
    monkeypatch.setenv("DSPEX_ENCRYPTION_ACCEPTS_PLAIN", "1")
    assert levels(check_keys()) == {
        "keys of this shell": ("ok", "encrypts with a, decrypts old too; signs with s"),
        "unencrypted data": ("warn", "is read, although there are keys"),
    }
    file.chmod(0o644)
    [readable] = [check for check in check_keys() if check.what == "encryption keys"]
    assert (readable.level, readable.fix) == ("fail", f"chmod 600 {file}")
    assert "everybody on this machine may read" in readable.found


@pytest.mark.parametrize("setting", ["DSPEX_ENCRYPTION_KEYS", "DSPEX_SIGNING_KEYS"])
def test_keys_that_cannot_be_read_are_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: str) -> None:
    monkeypatch.setenv(f"{setting}_FILE", str(tmp_path / "nowhere"))
    [check] = check_keys()
    assert check.level == "fail"
    assert "nowhere can't be read: No such file" in check.found


def report(*encryption: str, signing: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"keys": {"encryption": list(encryption), "signing": list(signing), "checks": []}}


def test_workers_that_have_other_keys_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(**reports: Any) -> dict[str, tuple[str, str]]:
        return levels(check_workers_keys(reports))

    assert found(one=report(), two=report()) == {}
    assert found(one=report("a"), two=report("a")) == {
        "encryption keys": ("warn", "this shell has none, so that it can't read what the others write")
    }
    assert found(one=report("a"), two=report(), three={"packages": {}})["encryption keys"] == (
        "fail",
        "this shell, two has none, so that it can't read what the others write",
    )
    monkeypatch.setenv("DSPEX_ENCRYPTION_KEYS", f"{KEY} {DIGESTS}")
    assert found(one=report("a")) == {"encryption keys": ("ok", "the same everywhere: a")}
    assert found(one=report("b", "a"))["encryption keys"] == ("warn", "they differ: this shell: a; one: b, a")
    assert found(one=report("a", signing=("s",)))["signing keys"][0] == "warn"


@pytest.mark.parametrize(
    ("url", "is_warned"),
    [
        ("redis://localhost:6379/0", False),
        ("redis://:pw@127.0.0.1:6379/0", False),
        ("redis://[::1]:6379", False),
        ("unix:///run/redis.sock", False),
        ("rediss://redis.internal:6380/0", False),
        ("redis://redis.internal:6379/0", True),
        ("redis+sentinel://127.0.0.1:1,10.0.0.2:1/main/0", True),
        ("redis://user:p@ss@10.0.0.1:6379", True),
    ],
)
def test_a_way_to_another_machine_without_tls_is_warned_of(url: str, is_warned: bool) -> None:
    checks = list(check_transport("way to Redis", url))
    assert [check.level for check in checks] == ["warn"] * is_warned
    assert "p@ss" not in str(checks)
