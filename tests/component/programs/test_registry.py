"""The program registry on a real server: versions, labels, and what is refused or can't be found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis import Redis

from snakepit_bridge.exceptions import ProgramNotFoundError, ProgramSpecError, StoreUnavailableError
from snakepit_bridge.programs.registry import (
    UNREGISTERED,
    VARIANT_KEPT_S,
    ProgramListing,
    ProgramRegistry,
    Reference,
)
from snakepit_bridge.programs.spec import ProgramSpec, digest
from snakepit_bridge.redis.connection import RedisConnection


@pytest.fixture
async def registry(redis_url: str) -> AsyncIterator[ProgramRegistry]:
    connection = RedisConnection(redis_url)
    yield ProgramRegistry(connection)
    await connection.client.aclose()


def spec(module: str = "Predict", **changed: Any) -> ProgramSpec:
    return ProgramSpec.parse({"module": module, "signature": "question -> answer", **changed}, program="qa")


# ---------------------------------------------------------------- versions


async def test_the_first_registration_is_version_one(registry: ProgramRegistry) -> None:
    program = await registry.register("qa", spec())

    assert (program.name, program.version, program.spec) == ("qa", 1, spec())
    assert program.digest == digest(spec().encode())


async def test_other_content_is_the_next_version_and_the_old_one_stays(registry: ProgramRegistry) -> None:
    await registry.register("qa", spec("Predict"))
    await registry.register("qa", spec("ChainOfThought"))

    assert (await registry.get("qa")).version == 2
    assert (await registry.get("qa:1")).spec == spec("Predict")
    assert (await registry.get("qa:2")).spec == spec("ChainOfThought")


async def test_unchanged_content_keeps_its_version(registry: ProgramRegistry) -> None:
    first = await registry.register("qa", spec())

    assert await registry.register("qa", spec()) == first


async def test_content_that_comes_back_is_a_new_version(registry: ProgramRegistry) -> None:
    for module in ("Predict", "ChainOfThought", "Predict"):
        await registry.register("qa", spec(module))

    assert (await registry.get("qa")).version == 3
    assert (await registry.get("qa")).digest == (await registry.get("qa:1")).digest


async def test_programs_have_versions_of_their_own(registry: ProgramRegistry) -> None:
    await registry.register("qa", spec())
    await registry.register("qa", spec("ReAct"))

    assert (await registry.register("summary", spec())).version == 1


async def test_registering_at_the_same_time_gives_each_content_one_version(registry: ProgramRegistry) -> None:
    specs = [spec(lm=f"lm{n}") for n in range(20)]
    programs = await asyncio.gather(*(registry.register("qa", each) for each in specs))

    assert sorted(program.version for program in programs) == list(range(1, 21))
    for program in programs:
        assert (await registry.get(f"qa:{program.version}")).spec == program.spec


async def test_a_variant_runs_under_its_digest_and_is_no_version(registry: ProgramRegistry, redis_url: str) -> None:
    reference = await registry.store_variant("qa", spec("ReAct", tools=[]))
    found = await ProgramRegistry(registry.connection).get(str(reference))
    assert (found.name, found.version, found.digest) == ("qa", UNREGISTERED, reference.digest)
    assert found.spec == spec("ReAct", tools=[])
    assert await registry.resolve(str(reference), "user", 0.0) == (found, None)
    assert await registry.list() == []
    with Redis.from_url(redis_url) as client:
        assert 0 < client.ttl(registry.keys.program_variant("qa", found.digest)) <= VARIANT_KEPT_S


async def test_a_variant_that_has_expired_or_was_changed_is_refused_by_name(
    registry: ProgramRegistry, redis_url: str
) -> None:
    reference = await registry.store_variant("qa", spec())
    elsewhere = ProgramRegistry(registry.connection)
    with Redis.from_url(redis_url) as client:
        client.set(registry.keys.program_variant("qa", str(reference.digest)), spec("ReAct").encode())
        with pytest.raises(ProgramSpecError, match="isn't what was registered"):
            await elsewhere.get(str(reference))
        client.delete(registry.keys.program_variant("qa", str(reference.digest)))
    with pytest.raises(ProgramNotFoundError, match=f"qa#{reference.digest}"):
        await elsewhere.get(str(reference))
    with pytest.raises(ProgramNotFoundError):
        await elsewhere.get("qa#abc")


async def test_a_variant_that_is_registered_later_keeps_its_version(registry: ProgramRegistry) -> None:
    reference = await registry.store_variant("qa", spec())
    registered = await registry.register("qa", spec())
    assert (registered.version, registered.digest) == (1, reference.digest)
    assert (await registry.get(str(reference))).version == UNREGISTERED


async def test_another_process_reads_what_one_registered(registry: ProgramRegistry, redis_url: str) -> None:
    await registry.register("qa", spec(bindings={"temperature": "t"}))

    assert await ProgramRegistry(RedisConnection(redis_url)).get("qa") == await registry.get("qa")


async def test_namespaces_do_not_see_each_other(registry: ProgramRegistry, redis_url: str) -> None:
    await registry.register("qa", spec())

    with pytest.raises(ProgramNotFoundError):
        await ProgramRegistry(RedisConnection(redis_url), namespace="other").get("qa")


# ---------------------------------------------------------------- labels


async def test_a_label_points_at_a_version_until_it_is_moved(registry: ProgramRegistry) -> None:
    await registry.register("qa", spec("Predict"))
    await registry.label("qa", "prod", 1)
    await registry.register("qa", spec("ChainOfThought"))

    assert (await registry.get("qa@prod")).version == 1
    await registry.label("qa", "prod", 2)
    assert (await registry.get("qa@prod")).version == 2
    await registry.label("qa", "prod", 1)
    assert (await registry.get("qa@prod")).version == 1


async def test_a_label_may_be_called_latest_without_being_it(registry: ProgramRegistry) -> None:
    await registry.register("qa", spec("Predict"))
    await registry.label("qa", "latest", 1)
    await registry.register("qa", spec("ChainOfThought"))

    assert (await registry.get("qa@latest")).version == 1
    assert (await registry.get("qa")).version == 2


async def test_a_label_for_a_version_that_is_not_there_is_refused(registry: ProgramRegistry) -> None:
    await registry.register("qa", spec())

    with pytest.raises(ProgramNotFoundError, match="qa:7"):
        await registry.label("qa", "prod", 7)
    with pytest.raises(ProgramNotFoundError):
        await registry.label("nowhere", "prod", 1)


@pytest.mark.parametrize("label", ["", "a b", "prod:1", "@prod", "x" * 101, "é"])
async def test_a_label_that_no_reference_could_read_is_refused(registry: ProgramRegistry, label: str) -> None:
    await registry.register("qa", spec())

    with pytest.raises(ProgramSpecError):
        await registry.label("qa", label, 1)
    assert (await registry.list())[0].labels == {}


async def test_the_list_has_every_program_with_its_labels(registry: ProgramRegistry) -> None:
    assert await registry.list() == []
    await registry.register("summary", spec())
    await registry.register("qa", spec("Predict"))
    await registry.register("qa", spec("ChainOfThought"))
    await registry.label("qa", "prod", 1)
    await registry.label("qa", "canary", 2)

    assert await registry.list() == [
        ProgramListing("qa", 2, {"canary": 2, "prod": 1}),
        ProgramListing("summary", 1, {}),
    ]


# ---------------------------------------------------------------- not found


async def test_an_unknown_program_names_the_closest(registry: ProgramRegistry) -> None:
    await registry.register("question_answering", spec())

    with pytest.raises(ProgramNotFoundError, match="Did you mean 'question_answering'") as missing:
        await registry.get("question_answring")
    assert tuple(missing.value.available) == ("question_answering",)


async def test_an_unknown_version_or_label_names_what_the_program_has(registry: ProgramRegistry) -> None:
    await registry.register("qa", spec())
    await registry.label("qa", "prod", 1)

    with pytest.raises(ProgramNotFoundError) as missing:
        await registry.get("qa@prd")
    assert sorted(missing.value.available) == ["qa", "qa:1", "qa@prod"]
    assert "Did you mean 'qa@prod'" in str(missing.value)
    with pytest.raises(ProgramNotFoundError, match="qa:9"):
        await registry.get("qa:9")


@pytest.mark.parametrize(
    "reference",
    ["", "@prod", "qa@", "qa:", "qa:x", "qa:-1", "qa@prod:1", "q a", "qa\n", "{qa}", "../qa", "qa:1e3", "x" * 500, "*"],
)
async def test_a_reference_that_is_none_is_not_found(registry: ProgramRegistry, reference: str) -> None:
    await registry.register("qa", spec())

    with pytest.raises(ProgramNotFoundError):
        await registry.get(reference)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("qa", Reference("qa")),
        ("qa@prod", Reference("qa", label="prod")),
        ("qa:3", Reference("qa", version=3)),
        ("a.b-c_d@v1.2", Reference("a.b-c_d", label="v1.2")),
    ],
)
def test_references_read_as_written(text: str, expected: Reference) -> None:
    assert Reference.parse(text) == expected


# ---------------------------------------------------------------- what Redis holds


@pytest.mark.parametrize("name", ["", "q a", "qa@prod", "qa:1", "{qa}", "*"])
async def test_a_name_that_could_not_be_read_again_is_refused(
    registry: ProgramRegistry, client: Redis, name: str
) -> None:
    with pytest.raises(ProgramSpecError, match="the name"):
        await registry.register(name, spec())
    assert client.keys("*") == []


@pytest.mark.parametrize(
    "planted", [b'{"format":1,"module":"os:system"}', b"\x80\x04\x95cposix\nsystem\n", b"", b"{" * 100_000]
)
async def test_a_spec_that_was_changed_in_redis_is_refused_unread(
    registry: ProgramRegistry, client: Redis, redis_url: str, planted: bytes
) -> None:
    program = await registry.register("qa", spec())
    client.set(f"dspex:{{p:qa}}:spec:{program.digest}", planted)

    with pytest.raises(ProgramSpecError, match="isn't what was registered"):
        await ProgramRegistry(RedisConnection(redis_url)).get("qa")


async def test_a_spec_that_is_gone_is_a_named_error(registry: ProgramRegistry, client: Redis, redis_url: str) -> None:
    program = await registry.register("qa", spec())
    client.delete(f"dspex:{{p:qa}}:spec:{program.digest}")

    with pytest.raises(ProgramSpecError, match="register it again"):
        await ProgramRegistry(RedisConnection(redis_url)).get("qa")


@pytest.mark.parametrize("entry", [b"", b"7", b"x y", b"1 2 3", b"-1 abc", b"\xff \xff"])
async def test_an_entry_that_is_none_of_ours_is_a_named_error(
    registry: ProgramRegistry, client: Redis, entry: bytes
) -> None:
    await registry.register("qa", spec())
    client.hset("dspex:{p:qa}:versions", "latest", entry)  # pyright: ignore[reportArgumentType]

    for attempt in (registry.get("qa"), registry.register("qa", spec("ReAct")), registry.list()):
        with pytest.raises(ProgramSpecError, match="restore that key"):
            await attempt
    assert client.hget("dspex:{p:qa}:versions", "latest") == entry


async def test_a_spec_is_read_once_and_the_reference_each_time(
    registry: ProgramRegistry, client: Redis, redis_url: str
) -> None:
    program = await registry.register("qa", spec())
    other = ProgramRegistry(RedisConnection(redis_url))
    first = await other.get("qa")
    client.delete(f"dspex:{{p:qa}}:spec:{program.digest}")

    assert (await other.get("qa")).spec is first.spec
    await registry.register("qa", spec("ChainOfThought"))
    assert (await other.get("qa")).version == 2


async def test_nothing_of_it_expires(registry: ProgramRegistry, client: Redis) -> None:
    await registry.register("qa", spec())
    await registry.label("qa", "prod", 1)

    keys: Any = client.keys("*")
    assert len(keys) == 4  # the index; versions and a spec; the audit trail
    assert {client.ttl(key) for key in keys} == {-1}


async def test_redis_away_is_a_named_error_within_its_bound() -> None:
    unreachable = ProgramRegistry(RedisConnection("redis://127.0.0.1:1/0", timeout_s=0.5))

    for attempt in (
        unreachable.get("qa"),
        unreachable.register("qa", spec()),
        unreachable.list(),
        unreachable.label("qa", "prod", 1),
    ):
        with pytest.raises(StoreUnavailableError, match="is away"):
            await attempt
