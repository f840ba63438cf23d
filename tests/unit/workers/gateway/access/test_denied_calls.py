"""Denied calls in the audit trail: who wanted what, and however many there are, few entries."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from snakepit_bridge.audit.entries import AuditEntry, AuditOutcome
from snakepit_bridge.audit.trail import MemoryAuditTrail
from snakepit_bridge.exceptions import ApprovalError, StoreUnavailableError
from workers.gateway.access.denied_calls import BURST, REFILL_S, DeniedCalls, format_address
from workers.gateway.errors import NotGrantedError, UnauthenticatedError

UNKNOWN = UnauthenticatedError("The call's token is unknown to this gateway")


@dataclass
class Scene:
    """Denied calls, their trail and their clock."""

    trail: MemoryAuditTrail = field(default_factory=MemoryAuditTrail)
    now_s: float = 0.0

    def __post_init__(self) -> None:
        self.denied = DeniedCalls(self.trail, lambda: self.now_s)

    async def entries(self) -> list[AuditEntry]:
        """Flush, and return all entries, oldest first."""
        await self.denied.flush()
        return (await self.trail.read(limit=10_000))[::-1]


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_an_entry_says_who_wanted_what_on_what_and_why_it_was_denied(scene: Scene) -> None:
    scene.denied.note(NotGrantedError("reader", "admin"), "Protections.Protect")
    scene.denied.note(NotGrantedError("app", "publish", "shop"), "Variables.Publish", actor="app", session="shop")
    scene.denied.note(NotGrantedError("app", "read", "*"), "Costs.Get", actor="app")
    scene.denied.note(ApprovalError("r-1", "ann requested it"), "Approvals.Approve", actor="ann")
    scene.denied.note(UNKNOWN, "Variables.Get", session="shop", address="10.0.0.7")
    assert {(e.action, e.target, e.actor, e.outcome, e.changes) for e in await scene.entries()} == {
        ("Protections.Protect", "gateway", "reader", AuditOutcome.DENIED, 1),
        ("Variables.Publish", "session:shop", "app", AuditOutcome.DENIED, 1),
        ("Costs.Get", "gateway", "app", AuditOutcome.DENIED, 1),
        ("Approvals.Approve", "gateway", "ann", AuditOutcome.DENIED, 1),
        ("Variables.Get", "session:shop", "", AuditOutcome.DENIED, 1),
    }
    assert (await scene.entries())[-1].problem == ("The call's token is unknown to this gateway; it came from 10.0.0.7")


async def test_equal_calls_are_one_entry_with_their_number(scene: Scene) -> None:
    for _ in range(1_000):
        scene.denied.note(UNKNOWN, "Variables.Get", address="10.0.0.7")
    assert [(entry.changes, entry.names) for entry in await scene.entries()] == [(1_000, ())]


async def test_a_flood_of_unknown_tokens_fills_neither_the_trail_nor_the_memory(scene: Scene) -> None:
    total = 0
    for second in range(600):
        for number in range(100):
            address = f"10.{second % 250}.0.{number}"
            scene.denied.note(UNKNOWN, f"Service{number}.Method", session=f"s-{second}-{number}", address=address)
            total += 1
        scene.now_s = float(second)
        await scene.denied.flush()
    await scene.denied.flush(is_last=True)
    found = await scene.entries()
    assert len(found) <= BURST + 600 / REFILL_S + 1
    assert sum(entry.changes for entry in found) == total, "each call is counted"
    assert 1 < max(len(entry.names) for entry in found) < 50, "so many kinds of calls are remembered"
    assert all(len(entry.target) < 300 and len(entry.problem) < 500 for entry in found)


async def test_a_flood_of_one_caller_hides_no_other(scene: Scene) -> None:
    for number in range(10 * BURST):
        scene.denied.note(UNKNOWN, f"Service{number}.Method")
        await scene.denied.flush()
    before = len(await scene.entries())
    assert before == BURST
    scene.denied.note(NotGrantedError("reader", "admin"), "DeadLetters.Drop")
    assert [entry.actor for entry in (await scene.entries())[before:]] == ["reader"]
    scene.now_s += REFILL_S
    assert [entry.actor for entry in (await scene.entries())[before + 1 :]] == [""]


async def test_what_could_not_be_written_waits(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_: AuditEntry) -> None:
        raise StoreUnavailableError("redis://away", "no answer")

    scene.denied.note(UNKNOWN, "Variables.Get")
    with monkeypatch.context() as patched:
        patched.setattr(scene.trail, "record", fail)
        with pytest.raises(StoreUnavailableError):
            await scene.denied.flush()
    scene.denied.note(UNKNOWN, "Variables.Get")
    assert [entry.changes for entry in await scene.entries()] == [2]


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.7:4711", "10.0.0.7"),
        ("ipv6:[2001:db8::7]:4711", "2001:db8::7"),
        ("ipv6:%5B::1%5D:4711", "::1"),
        ("unix:/tmp/socket", ""),
        ("", ""),
    ],
)
def test_an_address_is_read_from_what_grpc_calls_a_peer(peer: str, address: str) -> None:
    assert format_address(peer) == address
