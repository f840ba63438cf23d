"""What the gateway loads with DSPy is left out of garbage collection, once."""

from __future__ import annotations

import pytest

from workers.gateway import loading


async def test_what_is_loaded_with_dspy_is_frozen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = list[int]()
    monkeypatch.setattr(loading, "freeze_gc", lambda: frozen.append(1))
    monkeypatch.setattr(loading._Collection, "is_frozen", False)
    monkeypatch.setattr(loading, "sys", type("Modules", (), {"modules": {}}))
    assert await loading.load_in_thread(lambda: "without") == "without"
    assert frozen == []
    monkeypatch.setattr(loading.sys, "modules", {"dspy": None})
    assert [await loading.load_in_thread(lambda: "with") for _ in range(2)] == ["with", "with"]
    assert frozen == [1]
