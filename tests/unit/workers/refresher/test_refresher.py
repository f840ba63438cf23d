"""The refresher's parts: settings, schedule, deletion guard, and reading in spite of unreadable variables."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snakepit_bridge.elixir.client import BridgeClient
from snakepit_bridge.elixir.errors import ElixirFailedError, ElixirSessionNotFoundError
from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.testing.elixir.server import BridgeServer
from snakepit_bridge.variables import Variable
from workers.refresher.deletion_guard import DeletionGuard
from workers.refresher.outage_bound import CONFIRM_INTERVAL_S, max_silence_s
from workers.refresher.publisher import diff_variables
from workers.refresher.reader import SessionReader
from workers.refresher.schedule import PollSchedule
from workers.refresher.settings import RefresherSettings
from workers.refresher.unreadable import UNKNOWN_NAME, bisect_unreadable


@pytest.fixture
def elixir() -> Generator[BridgeServer]:
    with BridgeServer() as server:
        server.begin("s")
        yield server


@pytest.fixture
async def client(elixir: BridgeServer) -> AsyncGenerator[BridgeClient]:
    opened = BridgeClient(elixir.address, timeout_s=5)
    yield opened
    await opened.aclose()


@pytest.mark.parametrize("bridge", ["", "localhost", ":50051", "localhost:", "localhost:x", "localhost:0", "h:70000"])
def test_an_address_that_is_none_is_refused_with_an_example(bridge: str) -> None:
    with pytest.raises(ConfigurationError, match="HOST:PORT, like localhost:50051"):
        RefresherSettings(bridge)


@pytest.mark.parametrize(
    "wrong", [{"poll_s": 0.0}, {"lease_s": -1.0}, {"settle_s": -0.1}, {"poll_s": 5.0, "poll_max_s": 1.0}], ids=str
)
def test_settings_that_make_no_sense_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        RefresherSettings("localhost:50051", **wrong)


def intervals(
    schedule: PollSchedule, count: int, *, busy: bool = False, watched: bool = False, took_s: float = 0.0
) -> list[float]:
    return [schedule.delay_after_read_s(busy=busy, watched=watched, took_s=took_s) for _ in range(count)]


def test_a_busy_session_keeps_the_shortest_interval_and_a_quiet_one_relaxes_to_the_longest() -> None:
    schedule = PollSchedule(1.0, 3.0)
    assert all(0.9 <= interval <= 1.1 for interval in intervals(schedule, 50, busy=True))
    quiet = intervals(schedule, 50)
    assert quiet[0] > 1.3
    assert all(2.7 <= interval <= 3.3 for interval in quiet[5:])
    assert intervals(schedule, 1, busy=True)[0] <= 1.1


def test_intervals_have_jitter_so_that_sessions_do_not_align() -> None:
    assert len(set(intervals(PollSchedule(1.0, 3.0), 20, busy=True))) == 20


def test_a_watched_session_is_read_rarely_even_if_it_is_busy() -> None:
    assert intervals(PollSchedule(1.0, 30.0), 1, busy=True, watched=True)[0] >= 27


def test_a_slow_server_is_read_for_no_more_than_a_quarter_of_the_time() -> None:
    assert intervals(PollSchedule(1.0, 3.0), 1, busy=True, took_s=2.0)[0] >= 7.2


def test_failures_are_retried_with_backoff_up_to_the_longest_interval() -> None:
    schedule = PollSchedule(1.0, 3.0)
    waits = [schedule.delay_after_failure_s() for _ in range(10)]
    assert waits[0] < 0.12
    assert all(later > earlier for earlier, later in itertools.pairwise(waits[:5]))
    assert all(wait <= 3.3 for wait in waits)
    intervals(schedule, 1)
    assert schedule.delay_after_failure_s() < 0.12


def test_missing_names_are_published_only_after_they_stay_missing() -> None:
    guard = DeletionGuard(2.0)
    assert guard.allows(frozenset(), 0.0)
    assert not guard.allows(frozenset("ab"), 10.0)
    assert not guard.allows(frozenset("ab"), 11.9)
    assert not guard.allows(frozenset("a"), 12.0)  # one came back: the others may, too
    assert not guard.allows(frozenset("a"), 13.9)
    assert guard.allows(frozenset("a"), 14.0)


def test_names_that_reappear_and_vanish_again_are_timed_from_scratch() -> None:
    guard = DeletionGuard(2.0)
    guard.allows(frozenset("a"), 0.0)
    assert guard.allows(frozenset(), 1.0)
    assert not guard.allows(frozenset("a"), 2.5)


def test_names_that_keep_changing_delay_other_changes_for_a_limited_time() -> None:
    guard = DeletionGuard(2.0)
    allowed = [guard.allows(frozenset(str(second)), float(second)) for second in range(30)]
    assert allowed.index(True) == 20


def test_a_difference_names_what_changed_what_is_new_and_what_is_gone() -> None:
    same, old, new = Variable.declare("same", 1), Variable.declare("x", 1), Variable.declare("x", 2)
    gone, fresh = Variable.declare("gone", 1), Variable.declare("fresh", 1)
    held = {"same": same, "x": old, "gone": gone}
    wanted = {"same": Variable.declare("same", 1), "x": new, "fresh": fresh}
    assert diff_variables(held, wanted) == {"x": new, "gone": None, "fresh": fresh}


NAMES = ["temperature", "temper", "temp*", "t", "", "a.b", "x y", "größe", "grüße", "(?!)", "back\\slash", "$", "^"]


@pytest.mark.parametrize("bad", [name for name in NAMES if name.isascii()])
async def test_the_variable_that_breaks_the_listing_is_found_whatever_its_name(
    elixir: BridgeServer, client: BridgeClient, bad: str
) -> None:
    for name in NAMES:
        elixir.register("s", name, "string", name)
    elixir.spoil("s", bad)
    listing, found = await bisect_unreadable(client, "s", (), frozenset())
    assert found == {bad}
    assert set(listing.unreadable) == {bad}
    assert set(listing.choose_variables({})) == set(NAMES) - {bad}
    before = elixir.calls.total()
    again, _ = await bisect_unreadable(client, "s", (), found)
    assert again == listing
    assert elixir.calls.total() - before <= 3


async def test_non_ascii_names_are_excluded_by_their_common_ascii_prefix(
    elixir: BridgeServer, client: BridgeClient
) -> None:
    for name in NAMES:
        elixir.register("s", name, "string", name)
    elixir.spoil("s", "größe")
    listing, found = await bisect_unreadable(client, "s", (), frozenset())
    assert found == {"gr…"}
    assert set(listing.choose_variables({})) == set(NAMES) - {"größe", "grüße"}


@settings(max_examples=20, deadline=None)
@given(st.sets(st.text(st.characters(max_codepoint=0x7F), max_size=5), min_size=1, max_size=8), st.data())
def test_all_variables_that_break_the_listing_are_found(names: set[str], data: st.DataObject) -> None:
    bad = data.draw(st.sets(st.sampled_from(sorted(names))))

    async def check(address: str) -> None:
        client = BridgeClient(address)
        listing, found = await bisect_unreadable(client, "s", (), frozenset())
        assert found == bad
        assert set(listing.choose_variables({})) == names - bad
        await client.aclose()

    with BridgeServer() as elixir:
        elixir.begin("s")
        for name in names:
            elixir.register("s", name, "string", name)
        for name in bad:
            elixir.spoil("s", name)
        asyncio.run(check(elixir.address))


async def test_known_names_are_read_one_by_one_if_patterns_do_not_help(
    elixir: BridgeServer, client: BridgeClient
) -> None:
    elixir.turn(odd_variables_spoil_patterns=True)
    for name in ("a", "b", "bad", "unknown"):
        elixir.register("s", name, "string", name)
    elixir.spoil("s", "bad")
    listing, _ = await bisect_unreadable(client, "s", ("a", "b", "bad", "deleted"), frozenset())
    assert set(listing.choose_variables({})) == {"a", "b"}
    assert set(listing.unreadable) == {"bad", UNKNOWN_NAME}


async def test_variables_that_keep_changing_while_read_one_by_one_are_an_error(
    elixir: BridgeServer, client: BridgeClient
) -> None:
    elixir.turn(odd_variables_spoil_patterns=True, latency_s=0.01)
    for name in ("a", "bad"):
        elixir.register("s", name, "integer", 0)
    elixir.spoil("s", "bad")

    async def keep_moving() -> None:
        while True:
            elixir.set("s", "a", 1)
            await asyncio.sleep(0.001)

    moving = asyncio.create_task(keep_moving())
    with pytest.raises(ElixirFailedError, match="kept changing while they were read"):
        await bisect_unreadable(client, "s", ("a", "bad"), frozenset())
    moving.cancel()


async def test_a_look_that_finds_nothing_new_brings_the_same_variables(
    elixir: BridgeServer, client: BridgeClient
) -> None:
    elixir.register("s", "x", "float", 1.0)
    elixir.register("s", "y", "float", 1.0)
    eyes = SessionReader(client, "s")
    first, second = await eyes.read(), await eyes.read()
    assert second.variables is first.variables
    assert second.began_at > first.began_at
    elixir.set("s", "x", 2.0)
    third = await eyes.read()
    assert third.variables["x"].value == 2.0
    assert third.variables["y"] is first.variables["y"]


async def test_of_a_name_registered_twice_the_one_counts_that_elixir_means(
    elixir: BridgeServer, client: BridgeClient
) -> None:
    ids = [elixir.register("s", "x", "integer", number) for number in range(3)]
    eyes = SessionReader(client, "s")
    assert (await eyes.read()).variables["x"].value == 2
    elixir.delete("s", ids[2])
    assert (await eyes.read()).variables["x"].value == 1


async def test_a_variable_that_cannot_be_decoded_is_named_and_the_others_are_read(
    elixir: BridgeServer, client: BridgeClient
) -> None:
    elixir.register("s", "good", "float", 1.0)
    elixir.register("s", "vector", "embedding", tuple(float(n) for n in range(2_000)))
    sessions = elixir._service.sessions
    sessions.variable("s", "vector").kind = "quantum"  # type: ignore[assignment]
    seen = await SessionReader(client, "s").read()
    assert list(seen.unreadable) == ["vector"]
    assert list(seen.variables) == ["good"]


async def test_a_session_that_is_not_there_is_told_by_name(client: BridgeClient) -> None:
    with pytest.raises(ElixirSessionNotFoundError, match="nowhere"):
        await SessionReader(client, "nowhere").read()


class NotUtf8(BridgeClient):
    """A server that sends, as Elixir may, a variable whose metadata aren't UTF-8."""

    async def list_raw(self, session: str, pattern: str = "") -> bytes:
        return (await super().list_raw(session, pattern)).replace(b"innocent", b"inno\xff\xffnt")


async def test_a_variable_whose_text_is_not_utf8_is_named_and_the_others_are_read(elixir: BridgeServer) -> None:
    elixir.register("s", "good", "float", 1.0)
    elixir.register("s", "bad", "float", 1.0, unit="innocent")
    client = NotUtf8(elixir.address)
    eyes = SessionReader(client, "s")
    for _ in range(2):
        seen = await eyes.read()
        assert list(seen.unreadable) == ["bad"]
        assert list(seen.variables) == ["good"]
    await client.aclose()


@given(
    poll_max_s=st.floats(1.0, 60.0),
    timeout_s=st.floats(0.1, 30.0),
    lease_s=st.floats(0.1, 30.0),
    took_s=st.floats(0.0, 60.0),
    busy=st.booleans(),
    watched=st.booleans(),
)
def test_the_silence_that_is_allowed_covers_what_happens_while_all_is_well(
    poll_max_s: float, timeout_s: float, lease_s: float, took_s: float, busy: bool, watched: bool
) -> None:
    """The interval, the slowest answer, and a refresher that dies just then, whose successor reads twice."""
    settings = RefresherSettings("localhost:50051", poll_max_s=poll_max_s, timeout_s=timeout_s, lease_s=lease_s)
    rest_s = PollSchedule(settings.poll_s, settings.poll_max_s).delay_after_read_s(
        busy=busy, watched=watched, took_s=took_s
    )
    answer_s, heir_s = timeout_s, lease_s + 2 * took_s
    assert rest_s + answer_s + heir_s + CONFIRM_INTERVAL_S <= max_silence_s(settings, read_s=took_s, round_s=took_s)


def test_the_documentation_says_how_long_elixir_may_be_silent_by_default() -> None:
    allowed_s = max_silence_s(RefresherSettings("localhost:50051"), read_s=0.0, round_s=0.0)
    text = (Path(__file__).parents[4] / "docs" / "concepts" / "elixir.md").read_text(encoding="utf-8")
    assert f"default settings it is {allowed_s:.1f} seconds" in " ".join(text.split())
