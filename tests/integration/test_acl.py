"""KINDS 32: each role does its real work under exactly the rights that ``dspex-fleet acl`` prints for it.

What a role lacks stands in the server's ACL log; what it was granted and didn't use fails as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import dspy
import pytest
from celery import chord, group

from snakepit_bridge.cli import main
from snakepit_bridge.client import Fleet
from snakepit_bridge.client.backlog import read_fleet_backlog
from snakepit_bridge.client.handle import Handle
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import PredictionTimeoutError, ProgramNotFoundError, RolloutMovedError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.programs.experiments import LabelExperiments
from snakepit_bridge.programs.registry import ProgramRegistry
from snakepit_bridge.programs.rollouts import ProgramRollouts
from snakepit_bridge.programs.spec import ProgramSpec
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.acl import PARTS, Role, scripted_commands
from snakepit_bridge.redis.acl_check import check_role
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.releases.index import RolloutIndex
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.records import POLICY_VARIABLE, RolloutState
from snakepit_bridge.snapshots import Retention, SnapshotStore
from snakepit_bridge.testing.elixir.server import BridgeServer
from snakepit_bridge.variables import Variable
from tasks.rate_limits.usage import read_limits
from tests.harness import servers
from tests.harness.acl import RightsServer, Usage, rights_server
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import eventually, wait_until
from tests.integration.gateway_clients import Client, connected, first, gateway
from workers.fleet_metrics.sessions import SessionsReader
from workers.refresher import Refresher, RefresherSettings

LIMITED = """
[profiles.limited]
model = "openai/limited"
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"
limits = {{ concurrency = 1, requests_per_min = 600, tokens_per_min = 60000000 }}
"""


# A URL may name another database, and a server that restarts has forgotten its scripts.
RARE = {"select", "eval", "script|exists"}
# kombu looks through these now and then while it waits for the replies of a control command.
_KOMBU = {"unacked_index", "unacked_mutex"}
# By a stall, a group that ends on another worker, a lost message of a known key, a payload, a session that Elixir owns.
RARELY_REACHED: dict[Role, set[str]] = {
    Role.worker: {"dspex:stalls", "celery-taskset-meta-*"},
    Role.gateway: {"dspex:delivery:*", "dspex:wanted"},
    Role.refresher: {"dspex:delivery:*"},
    Role.operator: {"dspex:payload:*", "dspex:wanted", *_KOMBU},
}


@pytest.fixture(scope="module", params=servers.KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[RightsServer]:
    with rights_server(request.param, tmp_path_factory.mktemp("server")) as running:
        yield running


@contextlib.contextmanager
def no_refusal(server: RightsServer) -> Generator[None]:
    """What was refused is why anything failed within it."""
    try:
        yield
    except Exception as exc:
        if refused := server.refused():
            raise AssertionError(refused) from exc
        raise
    refused = server.refused()
    assert not refused, refused


@contextlib.contextmanager
def playing(server: RightsServer, folder: Path) -> Generator[Stage]:
    """A worker on each pool with a worker's rights, and a client with a client's."""
    client = Fleet(server.url("client"), wait_s=30)
    with stage(
        folder,
        worker=False,
        url=server.url("worker"),
        app=client.app,
        more_profiles=LIMITED,
        DSPEX_PAYLOAD_BYTES="1000",
        DSPEX_BRIDGE="127.0.0.1:9",
    ) as staged:
        for pool in ("asyncio", "threads", "prefork"):
            queues = ("predictions", "predictions.code") if pool == "prefork" else ("predictions",)
            # With mingle and gossip, as an operator starts them.
            staged.start(pool=pool, concurrency=2, queues=queues, arguments=("-E",), name=pool, wait=False)
        for worker in staged.workers:
            worker.ready()
        yield Stage(client.url, client, staged.lm, staged.settings, client.app, staged.workers)
        for worker in staged.workers:
            os.kill(worker.container.pid, signal.SIGTERM)
        wait_until(
            lambda: all(worker.container.returncode is not None for worker in staged.workers), "the workers' ends"
        )


def test_each_role_has_the_rights_that_its_work_takes_and_no_others(server: RightsServer, tmp_path: Path) -> None:
    """KINDS 32."""
    usage = Usage(server.admin)
    with usage.recording(), no_refusal(server), playing(server, tmp_path) as play:
        client_works(play)
        asyncio.run(label_is_staged(server.url("client")))
        asyncio.run(gateway_works(play, server))
        asyncio.run(refresher_works(server))
        operator_works(play, server, tmp_path)
    unused, unreached = {}, {}
    for role in Role:
        rights, used = server.rights(role), usage.commands[role.value]
        called = {command for part in PARTS[role] for command in scripted_commands(part)}
        patterns = {*rights.keys, *rights.reads, *rights.channels}
        unused[role] = {*rights.commands} - used - called - RARE
        unreached[role] = patterns - usage.used(role.value, patterns) - RARELY_REACHED.get(role, set())
    left = {role: missing for role, missing in [*unused.items(), *unreached.items()] if missing}
    assert not left


def client_works(play: Stage) -> None:
    fleet, session = play.fleet, fresh("s")
    fleet.register(
        "qa", dspy.Predict("question -> answer"), bindings={"temperature": "t", "model": "m"}, cache={"ttl_s": 60}
    )
    fleet.register("plain", dspy.Predict("question -> answer"))
    fleet.register("scoring", dspy.Predict("text -> score"))
    fleet.register("judge", dspy.Predict("answers: list[str] -> verdict"))
    fleet.label("qa", "prod", 1)
    assert [program.name for program in fleet.programs()] == ["judge", "plain", "qa", "scoring"]
    # Where no answer comes, kombu looks for messages that a dead consumer left.
    assert fleet.app.control.ping(destination=["nobody@nowhere"], timeout=0.5) == []
    variables = fleet.session(session).blocking
    variables.register_variable("m", "string", "limited")
    first = variables.register_variable("t", "float", 0.5)
    variables.set_variables({"dspex.on_refused": "last_good"})
    answers(play, session, first)
    everything_at_once(play, session)
    variables.set_variable("t", 0.7)
    variables.label("stable", first)
    assert fleet.promote(session, "stable", wait_s=20)
    assert fleet.applied(session)
    assert fleet.cost("session").total.predictions
    assert fleet.score(end_in_rollout(play), "helpful", 1.0)
    rollout_is_steered(fleet)
    predictions_are_judged(fleet)
    variables.rollback(first)
    assert variables.history()
    assert variables.diff(first) == {}
    assert variables.labels()
    run_blocking(store_works(fleet.store, session))
    assert variables.delete_variable("m")
    with pytest.raises(ProgramNotFoundError):
        fleet.submit("nothing", {"question": "?"}).get()
    with pytest.raises(PredictionTimeoutError):
        fleet.handle(fresh("task")).get(1)


def rollout_is_steered(fleet: Fleet) -> None:
    """A rollout is started, looked at, paused, resumed and aborted."""
    session, why = fresh("steered"), {"author": "ann", "reason": "a try"}
    fleet.session(session).blocking.set_variables({"t": 0.1})
    assert fleet.rollouts.start(session, {"t": 0.2}, policy={}).is_open
    wait_until(lambda: fleet.rollouts.show(session).record.stage, "a worker to begin the first stage")
    target = f"session:{session}"
    assert target in {staged.target for staged in fleet.rollouts.list()}
    fleet.rollouts.pause(session, **why)
    fleet.rollouts.resume(session, **why)
    fleet.rollouts.abort(session, **why)
    index = RolloutIndex(fleet.connection, FleetKeys(fleet.namespace))
    wait_until(lambda: target not in run_blocking(index.list()), "a worker to see its end")


def predictions_are_judged(fleet: Fleet) -> None:
    """Have a worker judge a prediction, which takes it a few seconds to know."""
    fleet.judges.add("plain", name="good", program="scoring", inputs={"text": "outputs.answer"}, share=1.0)

    def is_judged() -> bool:
        handle = fleet.submit("plain", {"question": fresh("q")})
        handle.get()
        return fleet.judges.list()[0].hour.judged > 0

    wait_until(is_judged, "a prediction to be judged")
    fleet.judges.remove("plain", "good")


def end_in_rollout(play: Stage) -> str:
    """Return the id of a prediction that has ended under an arm of a rollout."""
    session, fleet = fresh("staged"), play.fleet
    variables = fleet.session(session).blocking
    variables.set_variables({"t": 0.1, POLICY_VARIABLE: '{"stages": [{"share": 0.5, "min_s": 3600}]}'})
    variables.set_variables({"t": 0.2})

    def assigned() -> str:
        handle = fleet.submit("plain", {"question": fresh("q")}, session=session)
        return handle.id if handle.get().provenance.arm else ""

    run_blocking(begin_stage(fleet.store, session))
    return wait_until(assigned, "a prediction that is assigned to an arm")


async def begin_stage(store: SnapshotStore, session: str) -> None:
    """Begins the first stage, unless a worker has begun it already."""
    before = (await store.head(session)).rollout
    assert before is not None
    after = before.change(RolloutState.RUNNING, stage=1, share=500_000)
    with suppress(RolloutMovedError):
        await store.step_rollout(session, before, RolloutEvent("stage", after))
    assert await store.rollout_events(session)


async def store_works(store: SnapshotStore, session: str) -> None:
    """What an application may ask of the snapshot store itself."""
    assert session in await store.sessions()
    await store.declare_checks(session, {"warm": {"properties": {"t": {"maximum": 2}}}})
    await store.publish(session, {"t": Variable.declare("t", 0.5)})
    await store.retain(session, Retention(revisions=5))
    await store.unlabel(session, "stable")
    gone = fresh("gone")
    await store.publish(gone, {"t": Variable.declare("t", 0.5)})
    await store.drop(gone)


def answers(play: Stage, session: str, token: Token) -> None:
    """A stream, the same key twice, a batch, a large input, a replay, a pin, a chain, a chord."""
    fleet = play.fleet
    terms: dict[str, Any] = {"session": session, "at_least": token, "deadline": 60}
    streamed = fleet.submit("qa@prod", {"question": "one"}, stream=True, idempotency_key="k", **terms)
    assert "".join(run_blocking(texts(streamed))) == "answer of one"
    assert streamed.get().answer == "answer of one"
    assert fleet.submit("qa@prod", {"question": "one"}, stream=True, idempotency_key="k", **terms).id == streamed.id
    batch = fleet.submit_batch("qa", [{"question": f"q{n}"} for n in range(8)], session=session)
    assert [handle.get().answer for handle in batch] == [f"answer of q{n}" for n in range(8)]
    large = fleet.submit("qa", {"question": "x" * 400_000}, session=session, priority=9, exactly=token)
    assert large.get().answer.endswith("x")
    assert fleet.replay(streamed.id, timeout=30)
    chained = fleet.signature("plain", {"question": "begin"}) | fleet.signature("plain", take={"question": "answer"})
    assert fleet.handle(chained.apply_async().id).get().answer == "answer of answer of begin"
    judged = chord([fleet.signature("plain", {"question": q}) for q in "ab"])(
        fleet.signature("judge", take={"answers": "answer"})
    )
    assert fleet.handle(judged.id).get().verdict.startswith("verdict of ")
    both = group([fleet.signature("plain", {"question": q}) for q in "ab"])()
    assert len(both.get(timeout=30)) == 2
    both.save()


async def texts(handle: Handle) -> list[str]:
    return [piece.text async for piece in handle.stream()]


def everything_at_once(play: Stage, session: str) -> None:
    """More than the limits let through, on every pool; one that runs and one that waits are cancelled."""
    slow = fresh("slow")
    play.lm.hang(1, containing=slow)
    running = play.fleet.submit("qa", {"question": slow}, session=session)
    play.await_asked(slow)
    waiting = [play.fleet.submit("qa", {"question": fresh("q")}, session=session, priority=n % 10) for n in range(24)]
    assert waiting[-1].cancel()
    assert running.cancel()
    for handle in waiting[:-1]:
        handle.get()


async def gateway_works(play: Stage, server: RightsServer) -> None:
    session, scored = fresh("user"), await asyncio.to_thread(end_in_rollout, play)
    async with gateway(server.url("gateway")) as served, connected(served.grpc_address) as client:
        change = [pb.Change(name="t", value_json=b"0.25")]
        published = await client.variables.Publish(
            pb.PublishRequest(session=session, changes=change, request_id="once"), metadata=client.metadata
        )
        token = published.token
        assert await client.values(session, at_least=token) == {"t": 0.25}
        watching = client.variables.Watch(pb.WatchRequest(session=session), metadata=client.metadata)
        assert await first(watching, 1)
        task = await client.submit("plain", session, {"question": "over"}, stream=True, idempotency_key="k")
        events = client.predictions.Stream(pb.StreamRequest(id=task), metadata=client.metadata)
        assert [event async for event in events]
        for call, request in (
            (client.predictions.Get, pb.PredictionRequest(id=task)),
            (client.predictions.Cancel, pb.PredictionRequest(id=task)),
            (client.predictions.Await, pb.AwaitRequest(id=task)),
            (client.programs.List, pb.ListProgramsRequest()),
            (client.costs.Report, pb.CostReportRequest()),
            (client.variables.History, pb.HistoryRequest(session=session)),
            (client.variables.Rollback, pb.RollbackRequest(session=session, to=token)),
            (client.scores.Score, pb.ScoreRequest(id=scored, name="helpful", value_json=b"0.5")),
            (client.scores.List, pb.ListScoresRequest(id=scored)),
        ):
            await call(request, metadata=client.metadata)
        await rollout_is_steered_through(client)
        large = json.dumps({"question": "x" * 400_000}).encode()
        batch = pb.SubmitBatchRequest(requests=[pb.SubmitRequest(program="plain", session=session, inputs_json=large)])
        [sent] = (await client.predictions.SubmitBatch(batch, metadata=client.metadata)).submitted
        await client.predictions.Cancel(pb.PredictionRequest(id=sent.handle.id), metadata=client.metadata)
    play.fleet.handle(task).get()
    await fleet_is_watched(server.url("gateway"))
    await label_is_staged(server.url("gateway"))


async def rollout_is_steered_through(client: Client) -> None:
    """A rollout is started, looked at, watched and steered through a gateway."""
    session = fresh("user")
    await client.publish(session, t=0.1)
    start = pb.StartRolloutRequest(target=session, values_json=b'{"t": 0.2}', request_id="start")
    assert (await client.rollouts.Start(start, metadata=client.metadata)).id
    watching = client.rollouts.Watch(pb.WatchRolloutRequest(target=session), metadata=client.metadata)
    assert await first(watching, 2), "a worker begins the first stage"
    await client.rollouts.Show(pb.ShowRolloutRequest(target=session), metadata=client.metadata)
    await client.rollouts.List(pb.ListRolloutsRequest(), metadata=client.metadata)
    for call in (client.rollouts.Pause, client.rollouts.Resume, client.rollouts.Abort):
        step = pb.StepRolloutRequest(target=session, author="ann", reason="look", request_id=fresh("id"))
        await call(step, metadata=client.metadata)


async def fleet_is_watched(url: str) -> None:
    """Reads what the fleet's metrics are read from."""
    fleet = Fleet(url)
    await read_fleet_backlog(fleet, [fleet.queue])
    await read_limits(fleet.connection)
    assert (await SessionsReader(fleet).read()).sessions
    await fleet.store.aclose()
    await fleet.connection.aclose()


async def label_is_staged(url: str) -> None:
    """Starts a rollout of a label, pauses it and looks at it, and then tries an experiment."""
    name = fresh("staged")
    connection = RedisConnection(url)
    registry = ProgramRegistry(connection)
    rollouts = ProgramRollouts(registry)
    for output in "ab":
        spec = {"module": "Predict", "signature": f"question -> {output}"}
        await registry.register(name, ProgramSpec.parse(spec, program=name))
    await registry.label(name, "prod", 1)
    record = await rollouts.start(name, "prod", 2, "{}")
    after = record.change(RolloutState.PAUSED)
    await rollouts.step(name, "prod", record, RolloutEvent("paused", after))
    assert await rollouts.read(name, "prod")
    assert len(await rollouts.events(name, "prod")) == 2
    await registry.resolve(f"{name}@prod", "key", 0.0)
    experiments = LabelExperiments(registry, name, "prod")
    await rollouts.step(name, "prod", after, RolloutEvent("rolled_back", after.change(RolloutState.ROLLED_BACK)))
    arms = [{"name": f"v{version}", "weight": 0.5, "revision": version} for version in "12"]
    await experiments.start({"name": "both", "arms": arms})
    await experiments.decide("both", "v2")
    assert len(await experiments.events()) == 2
    await connection.aclose()


async def refresher_works(server: RightsServer) -> None:
    """What changes in Elixir is published, and what is set here is written there; two share the sessions."""
    with BridgeServer() as elixir:
        for session in "ab":
            elixir.begin(session)
            elixir.register(session, "temperature", "float", 0.5)
        quick: dict[str, Any] = {
            "poll_s": 0.05,
            "poll_max_s": 0.2,
            "settle_s": 0.6,
            "lease_s": 1.0,
            "timeout_s": 1.0,
            "heartbeat_s": 0.1,
        }
        settings = RefresherSettings(elixir.address, server.url("refresher"), sessions=("a", "b"), **quick)
        await check_role(Role.refresher, RedisConnection(settings.redis_url), settings.namespace)
        stop = asyncio.Event()
        running = [asyncio.create_task(Refresher(settings, name=name).run(stop)) for name in ("one", "two")]
        fleet = Fleet(server.url("client"), bridge=elixir.address)

        async def holds(value: float) -> bool:
            heads = await fleet.store.heads(["a"])
            return bool(heads) and (await fleet.store.read("a")).value("temperature") == value

        await eventually(lambda: holds(0.5), "the session to be there")
        elixir.set("a", "temperature", 0.75)
        await eventually(lambda: holds(0.75), "the change to be there")
        await fleet.session("a").set_variable("temperature", 0.9)
        assert elixir.value("a", "temperature") == 0.9
        elixir.end("b")
        await fleet_is_watched(server.url("refresher"))
        stop.set()
        await asyncio.gather(*running)


COMMANDS = (
    "doctor", "status", "cost", "programs", "publish ops t=0.5", "variables ops", "publish ops t=0.75", "history ops",
    "mark ops stable", "diff ops stable latest", "rollback ops stable", "predict plain question=why --session ops",
    "batch plain --input {lines} --output {out} --session ops", "replay {task}", "score {task} helpful 0.5",
    "judge add plain --name polite --program scoring --input text=outputs.answer", "judge list",
    "judge remove plain polite",
    "register {spec} --name asked", "label asked prod 1",
    "experiment start ops tone --arm a=stable:0.5 --arm b=latest:0.5", "experiment list ops",
    "experiment show ops tone", "experiment decide ops tone a --reason calmer",
    "promote ops stable", "watch ops --count 1", "dead list", "dead retry --all", "dead drop --all",
)  # fmt: skip


def operator_works(play: Stage, server: RightsServer, folder: Path) -> None:
    spec = folder / "asked.json"
    spec.write_text('{"module": "Predict", "signature": "question -> answer"}', encoding="utf-8")
    lines = folder / "lines.jsonl"
    lines.write_text('{"question": "why?"}\n{"question": "how?"}\n', encoding="utf-8")
    task = end_in_rollout(play)
    asyncio.run(label_is_staged(server.url("operator")))
    play.fleet.app.send_task("nobody.knows", queue=play.fleet.queue)
    for words in COMMANDS:
        if words.startswith("dead "):
            wait_until(lambda: "nobody.knows" in operate(server, "dead list"), "a dead message")
        print(operate(server, words.format(task=task, spec=spec, lines=lines, out=folder / "out.jsonl")))


def operate(server: RightsServer, words: str) -> str:
    out = io.StringIO()
    with pytest.raises(SystemExit) as ended, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        main(["--redis-url", server.url("operator"), *words.split()])
    return f"{ended.value.code} {out.getvalue()}"
