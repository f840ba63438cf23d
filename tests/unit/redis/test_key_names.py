"""Names that stand in keys are joined so that two different names never give one key."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.submission import PendingPrediction, build_pending
from snakepit_bridge.delivery.keys import DeliveryKeys
from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.protocol.messages import PredictionRequest, chunks_key
from snakepit_bridge.protocol.namespaces import check_namespace, exchanges
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.key_names import FleetKeys, OwnedKey, join_key
from snakepit_bridge.snapshots.redis_keys import Keys
from tasks.rate_limits.rules import LimitValues, build_buckets
from workers.gateway.access.authentication import UNRESTRICTED

# What separates in some key, and what escaping is made of.
NAMES = st.text("ab:/{}%.@23AFBD sip\n", min_size=1, max_size=8)
NAMESPACES = st.text("ab.-_%@", min_size=1, max_size=4)


@given(st.lists(NAMES, min_size=1, max_size=3), st.lists(NAMES, min_size=1, max_size=3))
def test_different_parts_give_different_keys(first: list[str], other: list[str]) -> None:
    assert (join_key(*first) == join_key(*other)) == (first == other)


def ask(namespace: str, key: Any) -> PendingPrediction:
    request = PredictionRequest("p", {}, "s")
    return build_pending(request, [{"q": 1}], [key], namespace, "replies")[0]


# Each way in which a name that users choose gets into a key, a channel or an id.
BUILT: dict[str, Callable[[str, str], str]] = {
    "writing": lambda namespace, name: FleetKeys(namespace).session_writing(name),
    "answer": lambda namespace, name: FleetKeys(namespace).cached_answer(name),
    "gateway request": lambda namespace, name: FleetKeys(namespace).gateway_request(name),
    "session of a prediction": lambda namespace, name: FleetKeys(namespace).prediction_session(name),
    "head": lambda namespace, name: Keys(namespace).head(name),
    "channel": lambda namespace, name: Keys(namespace).channel(name),
    "pin": lambda namespace, name: Keys(namespace).pin(name, Token(1, 2)),
    "state": lambda namespace, name: Keys(namespace).state(name, "ab12"),
    "applied": lambda namespace, name: FleetKeys(namespace).applied_revisions(name),
    "lease": lambda namespace, name: FleetKeys(namespace).session_lease(name),
    "program": lambda namespace, name: FleetKeys(namespace).program_versions(name),
    "reservation": lambda namespace, name: ask(namespace, name).reservation,
    "pieces": chunks_key,
    "payload": lambda namespace, name: FleetKeys(namespace).payload(name),
    "held": lambda namespace, name: DeliveryKeys.of(namespace).held(name),
}


@settings(max_examples=200)
@given(st.tuples(NAMESPACES, NAMES), st.tuples(NAMESPACES, NAMES))
def test_names_and_namespaces_never_collide(first: tuple[str, str], other: tuple[str, str]) -> None:
    keys = {(kind, *names): build(*names) for kind, build in BUILT.items() for names in {first, other}}
    assert len(set(keys.values())) == len(keys), keys


@given(st.tuples(NAMES, NAMES), st.tuples(NAMES, NAMES))
def test_equal_keys_of_two_grants_are_two_predictions(first: tuple[str, str], other: tuple[str, str]) -> None:
    asks = [ask("ns", OwnedKey(*first)), ask("ns", OwnedKey(*other))]
    assert (asks[0].task_id == asks[1].task_id) == (first == other)
    assert (asks[0].reservation == asks[1].reservation) == (first == other)


@given(st.tuples(NAMES, NAMES), NAMES)
def test_keys_of_grants_and_python_clients_never_collide(owned: tuple[str, str], plain: str) -> None:
    for key in (plain, "/".join(owned), join_key(*owned), ":".join(owned)):
        assert ask("ns", OwnedKey(*owned)).task_id != ask("ns", key).task_id
        assert ask("ns", OwnedKey(*owned)).reservation != ask("ns", key).reservation


def test_a_key_with_separators_does_not_collide() -> None:
    assert ask("ns", OwnedKey("a", "b/c")).task_id != ask("ns", OwnedKey("a/b", "c")).task_id


def test_owned_keys_with_equal_text_differ() -> None:
    request = PredictionRequest("p", {}, "s")
    keys = [OwnedKey("a", "k"), OwnedKey("b", "k"), "k", "a:k"]
    asks = build_pending(request, [{"q": 1}] * 4, keys, "ns", "replies")
    assert all(first.task_id != other.task_id for first, other in combinations(asks, 2))


@given(NAMES, NAMES)
def test_limits_of_different_sessions_and_profiles_have_different_buckets(first: str, other: str) -> None:
    limits = LimitValues(requests_per_min=1, tokens_per_min=1, concurrency=1, spend_per_hour=1)
    names = [bucket.name for whose in "ps" for of in {first, other} for bucket in build_buckets(whose, of, limits)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("namespace", ["", "a:b", "a/b", "a:{s:b", "a{", "a}", "a b", "a\n", "x" * 101])
def test_a_namespace_with_a_separator_is_rejected(namespace: str) -> None:
    with pytest.raises(ValueError, match="namespace"):
        check_namespace(namespace)
    with pytest.raises(ValueError, match="namespace"):
        Fleet("redis://localhost:1/0", namespace=namespace)


@given(*[st.text("abcelryv.", min_size=1, max_size=12)] * 2)
def test_namespaces_never_share_an_exchange(first: str, other: str) -> None:
    exchanged = [set(exchanges(name).values()) for name in (first, other)]
    assert exchanged[0] == exchanged[1] if first == other else not exchanged[0] & exchanged[1]
    assert not exchanged[0] & {"celery", "celeryev"}


@pytest.mark.parametrize(("first", "other"), [("a", "a.events"), ("celery", "dspex"), ("a", "a.control")])
def test_exchanges_of_similar_namespaces_differ(first: str, other: str) -> None:
    stock = {"control_exchange": "celery", "event_exchange": "celeryev"}
    exchanged = [set((stock | exchanges(name)).values()) for name in (first, other)]
    assert not exchanged[0] & exchanged[1]


def test_a_grant_without_a_name_is_rejected() -> None:
    from workers.gateway import Grants

    assert UNRESTRICTED.name == ""
    with pytest.raises(ConfigurationError, match="name"):
        Grants.parse(f"[tokens.\"\"]\nsha256 = '{'a' * 64}'\nscopes = ['read']\nsessions = ['*']\n")
