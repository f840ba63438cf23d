"""Each role does its real work under exactly the rights that ``dspex-fleet acl`` prints for it.

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
from redis import Redis
from redis.exceptions import NoPermissionError

from snakepit_bridge.cli import main
from snakepit_bridge.client import Fleet
from snakepit_bridge.client.backlog import read_fleet_backlog
from snakepit_bridge.client.handle import Handle
from snakepit_bridge.delivery.keys import DeliveryKeys
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import (
    ApprovalRequiredError,
    BridgeError,
    ConfigurationError,
    NotReplicatedError,
    PredictionTimeoutError,
    ProgramNotFoundError,
    RolloutMovedError,
    SessionNotFoundError,
    StoreForbiddenError,
)
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
from tests.harness.waiting import PATIENCE_S, eventually, wait_until
from tests.integration.gateway_clients import Client, connected, first, gateway, refused
from workers.refresher import Refresher, RefresherSettings
from workers.session_reports import SessionsReader

LIMITED = """
[profiles.limited]
model = "openai/limited"
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"
limits = {{ concurrency = 1, requests_per_min = 600, tokens_per_min = 60000000 }}

[profiles.night]
model = "openai/night"
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"
tier = "batch"
batch = {{ wait_s = 0, poll_s = 0.2 }}
"""


EXAMPLES = b'[{"question": "why?", "answer": "42"}]'
JUDGED = b'{"text": "outputs.answer"}'
# A URL may name another database, a server that restarts has forgotten its scripts, and few writes wait.
RARE = {"select", "eval", "script|exists", "script|load", "wait", "waitaof"}
# kombu looks through these now and then while it waits for the replies of a control command.
_KOMBU = {"unacked_index", "unacked_mutex"}
# By a stall, a lost dataset, a group that ends elsewhere, a lost message of a known key, a payload, an Elixir session.
RARELY_REACHED: dict[Role, set[str]] = {
    Role.worker: {
        "dspex:stalls",
        "dspex:datasets",
        "celery-taskset-meta-*",
        "dspex:approval:*",
        "dspex:approvals",
        "dspex:refreshers",
    },
    Role.gateway: {"dspex:delivery:*", "dspex:{lm-batches}:*", "dspex:wanted"},
    Role.refresher: {"dspex:delivery:*"},
    Role.operator: {"dspex:payload:*", "dspex:wanted", "dspex:refreshers", *_KOMBU},
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
    usage = Usage(server.admin)
    with usage.recording(), no_refusal(server), playing(server, tmp_path) as play:
        client_works(play)
        everything_is_on_disk(server)
        asyncio.run(label_is_staged(server.url("client")))
        asyncio.run(gateway_works(play, server))
        changes_are_approved(play, server)
        asyncio.run(refresher_works(server))
        operator_works(play, server, tmp_path)
        claims_are_read(server)
    unused, unreached = {}, {}
    for role in Role:
        rights, used = server.rights(role), usage.commands[role.value]
        called = {command for part in PARTS[role] for command in scripted_commands(part)}
        patterns = {*rights.keys, *rights.reads, *rights.channels}
        unused[role] = {*rights.commands} - used - called - RARE
        unreached[role] = patterns - usage.used(role.value, patterns) - RARELY_REACHED.get(role, set())
    left = {role: missing for role, missing in [*unused.items(), *unreached.items()] if missing}
    assert not left
    assert {"waitaof"} & usage.commands[Role.worker] == ({"waitaof"} if server.setinfo else set())


def everything_is_on_disk(server: RightsServer) -> None:
    """A publish, a submit and a result wait for the disk, where the server knows how."""
    durable, inputs = Fleet(server.url("client"), durability="fsynced(0, 30)"), {"question": fresh("q")}
    if server.setinfo:
        assert durable.session(fresh("s")).blocking.set_variable("n", 1)
        assert durable.submit("plain", inputs).get().answer
    else:
        with pytest.raises(ConfigurationError, match="older than Redis 7.2"):
            durable.submit("plain", inputs)


def changes_are_approved(play: Stage, server: RightsServer) -> None:
    """An operator protects sessions, a client requests changes, and an operator and a gateway approve them."""
    guarded = fresh("guarded")
    operator = Fleet(server.url("operator"))
    operator.protections.protect("session", guarded, author="root")
    for value, through in enumerate((play.fleet, Fleet(server.url("gateway")))):
        with pytest.raises(ApprovalRequiredError) as refused:
            through.session(guarded, author="ann").blocking.set_variables({"t": value})
        [request] = operator.approvals.list()
        assert request.id == refused.value.request
        asyncio.run(approved(server, request.id))
    operator.approvals.approve(unprotected(operator, guarded), author="ben")
    assert operator.audit(action="unprotect")
    with pytest.raises(StoreForbiddenError):
        play.fleet.audit()
    with Redis.from_url(server.url("client")) as client:
        for command in (
            ("XTRIM", "dspex:audit", "MAXLEN", "0"),
            ("DEL", "dspex:audit"),
            ("HDEL", "dspex:protections", "x"),
        ):
            with pytest.raises(NoPermissionError):
                client.execute_command(*command)
    server.refused()  # what was just refused


def unprotected(operator: Fleet, session: str) -> str:
    """Return the request to remove a rule."""
    with pytest.raises(ApprovalRequiredError) as refused:
        operator.protections.unprotect("session", session, author="root")
    return refused.value.request


async def approved(server: RightsServer, request: str) -> None:
    async with gateway(server.url("gateway")) as served, connected(served.grpc_address) as client:
        await client.approvals.Approve(pb.ApproveRequest(id=request, author="ben"), metadata=client.metadata)
        assert not (await client.approvals.List(pb.ListApprovalsRequest(), metadata=client.metadata)).requests


def claims_are_read(server: RightsServer) -> None:
    """As a watchdog reads those of its worker that hangs, and whoever finds a dead one."""
    with Redis.from_url(server.url("worker")) as client:
        held = DeliveryKeys.of("dspex").held("nobody")
        assert client.hscan(held, 0, count=10) == (0, {})


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
    with pytest.raises(NotReplicatedError):
        variables.set_variables({"t": 0.7}, durability="replicated(1, 0.01)")
    variables.label("stable", first)
    assert fleet.promote(session, "stable", wait_s=20)
    assert fleet.applied(session)
    assert fleet.cost("session").total.predictions
    assert fleet.score(end_in_rollout(play), "helpful", 1.0)
    batches_are_awaited(fleet)
    assert fleet.datasets.add("golden", [{"question": "why"}], inputs=["question"]).version == 1
    assert fleet.datasets.list()
    assert fleet.datasets.get("golden").rows == ({"question": "why"},)
    assert fleet.evaluate("plain", "golden", "answer_exact_match", session=session).record.count == 1
    assert fleet.evaluations.list()
    program_is_optimized(fleet)
    jobs_are_run(fleet)
    assert fleet.datasets.remove("golden")
    predictions_are_recorded(fleet)
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
    with pytest.raises(SessionNotFoundError):
        fleet.map("plain", [], session=fresh("s"))
    with pytest.raises(PredictionTimeoutError):
        fleet.handle(fresh("task")).get(1)


def program_is_optimized(fleet: Fleet) -> None:
    example = dspy.Example(question=fresh("q"), answer="42").with_inputs("question")
    found = fleet.optimize("plain:1", [example], lambda *_: True, optimizer="BootstrapFewShot", label="better")
    assert found.registered is not None
    assert fleet.lineage("plain@better")


def jobs_are_run(fleet: Fleet) -> None:
    """An evaluation and an optimization run on a worker."""
    rows = [{"question": fresh("q"), "answer": "42"} for _ in range(2)]
    fleet.datasets.add("learning", rows, inputs=["question"])
    started = [
        fleet.jobs.evaluate("plain", "learning", "answer_exact_match"),
        fleet.jobs.optimize("plain:1", "learning", "answer_exact_match", optimizer="BootstrapFewShot", label="jobbed"),
    ]
    assert [fleet.jobs.wait(job.id, 60).state for job in started] == ["succeeded"] * 2
    assert len(fleet.jobs.list()) == 2


def rollout_is_steered(fleet: Fleet) -> None:
    """A rollout is started, looked at, paused, resumed and aborted."""
    session, why = fresh("steered"), {"author": "ann", "reason": "a try"}
    fleet.session(session).blocking.set_variables({"t": 0.1})
    assert fleet.rollouts.start(session, {"t": 0.2}, policy={}).is_open
    wait_until(lambda: fleet.rollouts.show(session, looks=5).record.stage, "a worker to begin the first stage")
    target = f"session:{session}"
    assert target in {staged.target for staged in fleet.rollouts.list()}
    fleet.rollouts.pause(session, **why)
    fleet.rollouts.resume(session, **why)
    fleet.rollouts.abort(session, **why)
    index = RolloutIndex(fleet.connection, FleetKeys(fleet.namespace))
    wait_until(lambda: target not in run_blocking(index.list()), "a worker to see its end")


def predictions_are_recorded(fleet: Fleet) -> None:
    """Have a worker record a prediction, which takes it a few seconds to know, and make a dataset of it."""
    fleet.recorders.set("plain")

    def is_recorded() -> bool:
        fleet.submit("plain", {"question": fresh("q")}).get()
        return fleet.recorders.list()[0].count.records > 0

    wait_until(is_recorded, "a prediction to be recorded")
    assert fleet.datasets.from_predictions("plain", "kept", since_s=600).rows
    fleet.recorders.remove("plain", erase=True)


def predictions_are_judged(fleet: Fleet) -> None:
    """Have a worker judge a prediction, which takes it a few seconds to know."""
    fleet.judges.add("plain", name="good", program="scoring", inputs={"text": "outputs.answer"}, share=1.0)

    def is_judged() -> bool:
        handle = fleet.submit("plain", {"question": fresh("q")})
        handle.get()
        return fleet.judges.list().judges[0].hour.judged > 0

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
    """Begin the first stage, unless a worker has begun it already."""
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
    assert fleet.replay(streamed.id, timeout=PATIENCE_S)
    chained = fleet.signature("plain", {"question": "begin"}) | fleet.signature("plain", take={"question": "answer"})
    assert fleet.handle(chained.apply_async().id).get().answer == "answer of answer of begin"
    judged = chord([fleet.signature("plain", {"question": q}) for q in "ab"])(
        fleet.signature("judge", take={"answers": "answer"})
    )
    assert fleet.handle(judged.id).get().verdict.startswith("verdict of ")
    both = group([fleet.signature("plain", {"question": q}) for q in "ab"])()
    assert len(both.get(timeout=PATIENCE_S)) == 2
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
            (client.status.Get, pb.GetStatusRequest()),
            (client.variables.History, pb.HistoryRequest(session=session)),
            (client.variables.Rollback, pb.RollbackRequest(session=session, to=token)),
            (client.scores.Score, pb.ScoreRequest(id=scored, name="helpful", value_json=b"0.5")),
            (client.scores.List, pb.ListScoresRequest(id=scored)),
            (client.predictions.ListLMCalls, pb.ListLMCallsRequest(id=scored)),
            (client.predictions.Replay, pb.ReplayRequest(id=scored)),
            (client.judges.Add, pb.AddJudgeRequest(judged="plain", name="good", program="scoring", inputs_json=JUDGED)),
            (client.judges.List, pb.ListJudgesRequest()),
            (client.judges.Remove, pb.RemoveJudgeRequest(judged="plain", name="good")),
            (client.datasets.List, pb.ListDatasetsRequest()),
            (client.datasets.Add, pb.AddDatasetRequest(name="gate", inputs=["question"], examples_json=EXAMPLES)),
            (client.datasets.ListExamples, pb.ListDatasetExamplesRequest(reference="gate")),
            (client.datasets.Remove, pb.DatasetRequest(reference="gate:1")),
            (client.recorders.Set, pb.SetRecorderRequest(program="plain")),
            (client.recorders.List, pb.ListRecordersRequest()),
            (client.recorders.Remove, pb.RemoveRecorderRequest(program="plain", erase=True)),
            (client.evaluations.List, pb.ListEvaluationsRequest()),
            (client.jobs.List, pb.ListJobsRequest()),
            (client.programs.ListVersions, pb.ListVersionsRequest(name="qa")),
            (client.programs.SetLabel, pb.SetProgramLabelRequest(name="qa", label="new", version=1)),
            (client.sessions.List, pb.ListSessionsRequest()),
            (client.audit.List, pb.ListAuditRequest(since_s=60)),
            (client.sessions.SetLabel, pb.SetLabelRequest(session=session, label="stable")),
            (client.sessions.RemoveLabel, pb.RemoveLabelRequest(session=session, label="stable")),
            (client.sessions.DeclareChecks, pb.DeclareChecksRequest(session=session, remove=["none"])),
            (client.sessions.SetRetention, pb.SetRetentionRequest(session=session, revisions=5)),
        ):
            await call(request, metadata=client.metadata)
        await evaluation_is_started_through(client)
        await dead_letter_is_handled_through(client, play)
        await rollout_is_steered_through(client)
        await experiment_is_decided_through(client)
        # It waits for an answer, so that it can be cancelled.
        slow = fresh("slow")
        play.lm.hang(1, containing=slow)
        large = json.dumps({"question": slow + "x" * 400_000}).encode()
        batch = pb.SubmitBatchRequest(requests=[pb.SubmitRequest(program="plain", session=session, inputs_json=large)])
        [sent] = (await client.predictions.SubmitBatch(batch, metadata=client.metadata)).submitted
        await client.predictions.Cancel(pb.PredictionRequest(id=sent.handle.id), metadata=client.metadata)
    play.fleet.handle(task).get()
    await fleet_is_watched(server.url("gateway"))
    await label_is_staged(server.url("gateway"))


async def evaluation_is_started_through(client: Client) -> None:
    """A dataset is made of recorded predictions, and an evaluation is started, watched and read through a gateway."""
    await client.datasets.Add(
        pb.AddDatasetRequest(name="gated", inputs=["question"], examples_json=EXAMPLES), metadata=client.metadata
    )
    start = pb.StartEvaluationRequest(
        program="plain", dataset="gated", metric="answer_exact_match", request_id=fresh("id")
    )
    job = await client.evaluations.Start(start, metadata=client.metadata)
    states = [state async for state in client.jobs.Watch(pb.JobRequest(id=job.id), metadata=client.metadata)]
    selected = pb.AddFromPredictionsRequest(program="plain", name="none", since_s=60)
    assert (await refused(client.datasets.AddFromPredictions(selected, metadata=client.metadata)))[1] == "DatasetError"
    [arm] = json.loads(states[-1].result_json)["arms"].values()
    by_id = pb.ListEvaluationExamplesRequest(id=arm["id"])
    assert (await client.evaluations.ListExamples(by_id, metadata=client.metadata)).examples_json


async def dead_letter_is_handled_through(client: Client, play: Stage) -> None:
    """A message that no worker knows is looked at, retried and dropped through a gateway."""
    await asyncio.to_thread(play.fleet.app.send_task, "nobody.knows", queue=play.fleet.queue)
    letters, found = client.dead_letters, list[pb.DeadLetter]()

    async def is_there() -> bool:
        listed = await letters.List(pb.ListDeadLettersRequest(), metadata=client.metadata)
        found[:] = [letter for letter in listed.letters if letter.task == "nobody.knows"]
        return bool(found)

    for stub in (letters.Retry, letters.Drop):
        await eventually(is_there, "a dead message")
        by_id = pb.DeadLetterRequest(id=found[0].id)
        assert (await letters.Get(by_id, metadata=client.metadata)).message
        await stub(by_id, metadata=client.metadata)


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


async def experiment_is_decided_through(client: Client) -> None:
    """An experiment is started, looked at and decided through a gateway."""
    session = fresh("user")
    tokens = [await client.publish(session, t=value) for value in (0.1, 0.2)]
    arms = [pb.ExperimentArm(name=f"a{number}", weight=0.5, revision=token) for number, token in enumerate(tokens)]
    start = pb.StartExperimentRequest(target=session, name="warmth", arms=arms, request_id=fresh("id"))
    await client.experiments.Start(start, metadata=client.metadata)
    show = pb.ShowExperimentRequest(target=session, experiment="warmth")
    await client.experiments.Show(show, metadata=client.metadata)
    decide = pb.DecideExperimentRequest(target=session, experiment="warmth", arm="a0", author="ann", reason="calmer")
    await client.experiments.Decide(decide, metadata=client.metadata)


async def fleet_is_watched(url: str) -> None:
    """Read what the fleet's metrics are read from."""
    fleet = Fleet(url)
    await read_fleet_backlog(fleet, [fleet.queue])
    await read_limits(fleet.connection)
    assert (await SessionsReader(fleet).read()).sessions
    await fleet.store.aclose()
    await fleet.connection.aclose()


async def label_is_staged(url: str) -> None:
    """Start a rollout of a label, pause it and look at it, and then try an experiment."""
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
        elixir.register("a", POLICY_VARIABLE, "string", '{"stages": [{"share": 0.5, "min_s": 3600}]}')
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

        async def is_known() -> bool:
            return bool(server.admin.exists("dspex:refreshers:one"))

        await eventually(is_known, "a refresher to be known by its name")
        await fleet_is_watched(server.url("refresher"))
        stop.set()
        await asyncio.gather(*running)


COMMANDS = (
    "lm-batches list",
    "doctor", "status", "cost", "programs", "publish ops t=0.5", "variables ops", "publish ops t=0.75", "history ops",
    "mark ops stable", "diff ops stable latest", "rollback ops stable", "predict plain question=why --session ops",
    "batch plain --input {lines} --output {out} --session ops", "replay {task}", "score {task} helpful 0.5",
    "judge add plain --name polite --program scoring --input text=outputs.answer", "judge list",
    "judge remove plain polite",
    "dataset add ops {lines} --inputs question", "dataset list", "dataset show ops",
    "evaluate plain --dataset ops --metric answer_exact_match --session ops", "evaluations list",
    "evaluate plain --dataset ops --metric answer_exact_match --detach", "jobs list", "dataset remove ops",
    "record set plain", "record show", "record remove plain --erase",
    "register {spec} --name asked", "label asked prod 1",
    "experiment start ops tone --arm a=stable:0.5 --arm b=latest:0.5", "experiment list ops", "experiment list",
    "experiment show ops tone", "experiment decide ops tone a --reason calmer",
    "promote ops stable", "watch ops --count 1", "dead list", "dead retry --all", "dead drop --all",
)  # fmt: skip


def batches_are_awaited(fleet: Fleet) -> None:
    fleet.register("nightly", dspy.Predict("question -> answer"), lm="night")
    assert fleet.submit("nightly", {"question": fresh("q")}).get(PATIENCE_S).answer
    [batch] = fleet.lm_batches.list().batches
    with pytest.raises(BridgeError, match="has ended"):
        fleet.lm_batches.cancel(batch.id)


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
