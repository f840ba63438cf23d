"""The benchmark of encryption measures each step, without keys and with them."""

from __future__ import annotations

import pytest

from benchmarks import encryption


def test_each_step_is_measured_without_keys_and_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption, "_ROUNDS", 3)
    monkeypatch.setattr(encryption, "_REPEATS", 20)
    figures = encryption.run()
    assert set(figures) == {"inputs", "result", "journal", "snapshot"}
    for step in figures.values():
        assert step["on_us"] > step["off_us"] >= 0
