"""The snapshot store with encryption keys: what Redis has, what a rotation changes, and what it doesn't."""

from __future__ import annotations

import pytest
from redis import Redis

from snakepit_bridge.encryption.cipher import Cipher, EncryptionOptions
from snakepit_bridge.encryption.keys import KeyRing, generate_key
from snakepit_bridge.exceptions import DecryptionError
from snakepit_bridge.snapshots import RedisStore
from snakepit_bridge.variables import Variable
from tests.harness.redis_dump import dump

OLD, NEW, DIGESTS = generate_key("old"), generate_key("new"), generate_key("digests")


def cipher(*keys: str, accepts_plain: bool = False) -> Cipher:
    return EncryptionOptions(KeyRing.parse(" ".join((*keys, DIGESTS))), accepts_plain=accepts_plain).cipher("dspex")


def style(text: str) -> dict[str, Variable]:
    return {"style": Variable.declare("style", f"canary {text}")}


async def test_redis_has_no_value_of_variables_histories_labels_or_kept_states(redis_url: str) -> None:
    store = RedisStore(redis_url, cipher=cipher(OLD))
    first = await store.publish("s", style("one"))
    second = await store.publish("s", style("two"))
    await store.label("s", "stable", first)
    await store.keep(await store.read("s"), 60)
    assert (await store.read("s")).variables == style("two")
    assert (await store.read_at("s", first)).variables == style("one")
    assert [change.after for change in await store.history("s")] == [style("two"), style("one")]
    third = await store.rollback("s", first)
    assert (await store.read("s", await store.read_at("s", second))).variables == style("one")
    await store.drop("s")
    assert (await store.read_at("s", second)).variables == style("two")  # kept
    assert third.revision == 3
    assert "canary" not in dump(redis_url)
    await store.aclose()


async def test_an_equal_value_is_no_change_under_a_new_key_either(redis_url: str) -> None:
    old, new = RedisStore(redis_url, cipher=cipher(OLD)), RedisStore(redis_url, cipher=cipher(NEW, OLD))
    token = await old.publish("s", style("one"))
    assert await old.publish("s", style("one")) == token
    assert await new.publish("s", style("one")) == token
    assert await new.publish("s", style("one"), replace=True) == token
    assert await new.publish("s", style("two")) > token
    for store in (old, new):
        await store.aclose()


async def test_a_session_is_encrypted_anew_without_a_revision(redis_url: str) -> None:
    """Behind it the old key is needed for nothing."""
    old, both = RedisStore(redis_url, cipher=cipher(OLD)), RedisStore(redis_url, cipher=cipher(NEW, OLD))
    first = await old.publish("s", style("one"))
    second = await old.publish("s", {**style("two"), "other": Variable.declare("other", 1)})
    await old.label("s", "stable", first)
    before = await old.history("s")
    only_new = RedisStore(redis_url, cipher=cipher(NEW))
    with pytest.raises(DecryptionError, match="key 'old', and this process has new"):
        await only_new.read("s")
    assert await both.reencrypt("s") == 3
    assert await both.reencrypt("s") == 0
    assert (await only_new.head("s")).token == second
    assert (await only_new.read("s")).variables.keys() == {"style", "other"}
    assert (await only_new.read_at("s", first)).variables == style("one")
    assert await only_new.history("s") == before
    assert (await only_new.rollback("s", first)).revision == 3
    for store in (old, both, only_new):
        await store.aclose()


async def test_unencrypted_sessions_are_read_only_while_they_are_migrated(redis_url: str) -> None:
    plain, strict = RedisStore(redis_url), RedisStore(redis_url, cipher=cipher(NEW))
    token = await plain.publish("s", style("one"))
    with pytest.raises(DecryptionError, match="DSPEX_ENCRYPTION_ACCEPTS_PLAIN"):
        await strict.read("s")
    migrating = RedisStore(redis_url, cipher=cipher(NEW, accepts_plain=True))
    assert await migrating.publish("s", style("one")) == token
    assert await migrating.reencrypt("s") == 1
    assert (await strict.read("s")).variables == style("one")
    assert "canary" not in dump(redis_url)
    for store in (plain, strict, migrating):
        await store.aclose()


async def test_a_value_put_in_anothers_place_is_refused(redis_url: str) -> None:
    store = RedisStore(redis_url, cipher=cipher(NEW))
    await store.publish("s", {**style("one"), "other": Variable.declare("other", "x")})
    await store.publish("t", style("one"))
    with Redis.from_url(redis_url) as client:
        client.hset("dspex:{s:s}:variables", "other", client.hget("dspex:{s:s}:variables", "style"))  # type: ignore[arg-type]
        client.hset("dspex:{s:t}:variables", "style", client.hget("dspex:{s:s}:variables", "style"))  # type: ignore[arg-type]
    for session, name in (("s", "other"), ("t", "style")):
        with pytest.raises(DecryptionError, match=f"variable {session} {name}: it was changed, or moved here"):
            await RedisStore(redis_url, cipher=cipher(NEW)).read(session)
    await store.aclose()
