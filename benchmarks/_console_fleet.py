"""A large fleet for the benchmark of the console: something at its bound on each kind of page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks._parts import Bench
from snakepit_bridge.audit.entries import AuditEntry
from snakepit_bridge.client import Fleet
from snakepit_bridge.costs.hourly_sums import EndedPrediction, script_arguments
from snakepit_bridge.costs.usage import LMUsage
from snakepit_bridge.datasets.recorded import RecordedPrediction
from snakepit_bridge.delivery.activity import KEPT_S, MINUTE_S, ActivityStore, EndedPredictions, ProcessReport
from snakepit_bridge.evaluations.job_store import JobStore
from snakepit_bridge.evaluations.jobs import Job, JobEnd, OptimizationArguments
from snakepit_bridge.evaluations.optimizations import OptimizationRecord, TrialRecord
from snakepit_bridge.evaluations.record_store import EvaluationStore
from snakepit_bridge.evaluations.records import EvaluationKey, EvaluationRecord, EvaluationSubject, ExampleResult
from snakepit_bridge.programs.spec import ProgramSpec
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.rollouts.sketch import bucket_of
from snakepit_bridge.variables import Variable

PROGRAM, SESSION = "qa", "tenant-00077"
ROLLED_OUT, TRIED = "session:tenant-00150", "session:tenant-00200"
"""The targets of a rollout and of an experiment."""

_PROCESSES, _STAGED = 20, 20
_COMMANDS_AT_ONCE, _CALLS_AT_ONCE = 500, 50
_POLICY = {
    "stages": [{"share": 0.3, "min_s": 86_400, "min_predictions": 10**9}, {"share": 0.6}],
    "guards": [
        {"metric": "score", "name": "helpful", "max_decrease": 0.1},
        {"metric": "error_rate", "max_increase": 0.05},
        {"metric": "latency", "quantile": 0.95, "max_ratio": 1.5},
    ],
}


@dataclass(frozen=True, slots=True)
class FleetSize:
    """How much there is of what a fleet keeps.

    Attributes:
        sessions: published ones, and ``ended`` the predictions that ended in the last day.
        recorded: predictions that the recorder keeps, which are as many as it can at 100,000.
        programs: registered ones, and ``versions`` those of one of them.
        evaluations: ended ones, each with ``examples``.
        audited: entries of the audit trail, which are as many as it keeps at 100,000.
        revisions: of one session.
        dead: dead letters.
    """

    sessions: int = 10_000
    ended: int = 1_000_000
    recorded: int = 100_000
    programs: int = 1_000
    versions: int = 100
    evaluations: int = 1_000
    examples: int = 500
    audited: int = 100_000
    revisions: int = 200
    dead: int = 300


QUICK = FleetSize(500, 10_000, 500, 20, 5, 20, 20, 500, 10, 5)


@dataclass(frozen=True, slots=True)
class Filled:
    """The ids of what the pages show.

    Attributes:
        prediction: one that ran, with its result.
        dead_letter: a dead letter.
        evaluations: two of the same dataset.
        job: an optimization.
    """

    prediction: str
    dead_letter: str
    evaluations: tuple[str, str]
    job: str


def fill(parts: Bench, size: FleetSize) -> Filled:
    """Fill the fleet of a benchmark."""
    with parts.workers(1, "asyncio"):
        prediction = _run_predictions(parts.fleet)
        dead_letter = _leave_dead_letters(parts.fleet, size.dead)
    return asyncio.run(_fill(parts.url, size, prediction, dead_letter))


def _run_predictions(fleet: Fleet) -> str:
    spec = {"module": "Predict", "signature": "question -> answer", "bindings": {"temperature": "v0"}}
    fleet.register(PROGRAM, spec, lm="bench")
    fleet.session(SESSION).blocking.set_variables({f"v{number}": number / 10 for number in range(10)})
    handles = [fleet.submit(PROGRAM, {"question": f"q{number}"}, session=SESSION, trace=True) for number in range(5)]
    for handle in handles:
        handle.get()
    handles[0].score("helpful", 0.9, scorer="ann")
    return handles[0].id


def _leave_dead_letters(fleet: Fleet, count: int) -> str:
    for number in range(count):
        fleet.app.send_task("bench.unknown", args=(f"order {number}",), queue=fleet.queue)
    while fleet.dead_letters.count() < count:
        time.sleep(0.1)
    return fleet.dead_letters.ids()[0]


async def _fill(url: str, size: FleetSize, prediction: str, dead_letter: str) -> Filled:
    fleet = Fleet(url)
    await _publish(fleet, size)
    await _report_activity(fleet, size.ended)
    await _register(fleet, size)
    await _stage(fleet, size.ended)
    await _record(fleet, size)
    await _count_costs(fleet, size)
    await _audit(fleet, size.audited)
    evaluations, job = await _evaluate(fleet, size), await _optimize(fleet)
    await fleet.connection.aclose()
    await fleet.store.aclose()
    return Filled(prediction, dead_letter, evaluations, job)


async def _publish(fleet: Fleet, size: FleetSize) -> None:
    changes = {f"v{number}": Variable.declare(f"v{number}", number / 10) for number in range(10)}
    names = (f"tenant-{number:05}" for number in range(size.sessions))
    await _gather(lambda name: fleet.store.publish(name, changes), (name for name in names if name != SESSION))
    for number in range(size.revisions):
        await fleet.store.publish(SESSION, {"v1": Variable.declare("v1", number / 7)}, author="ann", reason="a try")


async def _report_activity(fleet: Fleet, ended: int) -> None:
    activity, now, minutes = ActivityStore(fleet.connection), time.time(), KEPT_S // MINUTE_S
    latencies = {bucket_of(float(100 + 37 * step)): 1 + ended // minutes // 20 for step in range(20)}
    for minute in range(minutes):
        at, process = now - minute * MINUTE_S, minute % _PROCESSES
        report = ProcessReport("worker@bench", process, "asyncio", 1_000, ("predictions",), 10, now, {"ok": ended})
        await activity.report(report, EndedPredictions(at, {"ok": ended // minutes, "failed": 1}, latencies))


async def _register(fleet: Fleet, size: FleetSize) -> None:
    registry = await asyncio.to_thread(lambda: fleet.registry)

    async def register(name: str, version: int) -> None:
        context = " ".join(f"context{version}_{part}," for part in range(20))
        spec = {"module": "Predict", "signature": f"question, {context} style -> answer"}
        await registry.register(name, ProgramSpec.parse(spec, program=name))

    for version in range(size.versions):
        await register(PROGRAM, version)
    await _gather(lambda number: register(f"program-{number:04}", 0), range(size.programs))
    for label in ("prod", "canary"):
        await registry.label(PROGRAM, label, 2, author="ann", reason="the best so far")


async def _stage(fleet: Fleet, ended: int) -> None:
    """Stage rollouts and experiments, and count all predictions of a day for one of each."""
    keys = FleetKeys(fleet.namespace)
    for number in range(_STAGED):
        target = f"tenant-{number + 150:05}"
        rollout = await fleet.rollouts.aio.start(target, {"v1": 0.9}, policy=_POLICY, author="ann", reason="livelier")
        session = f"tenant-{number + 200:05}"
        for name, value in (("calm", 0.1), ("lively", 0.9)):
            await fleet.store.publish(session, {"v1": Variable.declare("v1", value)})
            await fleet.session(session).label(name)
        arms = [{"name": name, "weight": 0.5, "revision": name} for name in ("calm", "lively")]
        tried = await fleet.experiments.aio.start(
            session, {"name": "tone", "arms": arms}, author="ann", reason="which?"
        )
        minute = int(time.time()) // MINUTE_S
        for owner, stage, arm in [
            *((rollout.id, 0, arm) for arm in ("baseline", "candidate")),
            *((tried.id, 0, arm) for arm in ("calm", "lively")),
        ]:
            counts = {
                "n": ended // 2,
                "e:LMError": ended // 100,
                "s:helpful:n": ended // 4,
                "s:helpful:m": ended * 200_000,
            }
            counts |= {f"lat:{bucket}": ended // 100 for bucket in range(120, 170)}
            key = keys.arm_counts(owner, stage, arm, minute)
            await fleet.connection.send_each([("HSET", key, *(part for item in counts.items() for part in item))])


async def _record(fleet: Fleet, size: FleetSize) -> None:
    """Fill a recorder to its bound: one program's predictions of many sessions, the newest a moment ago."""
    await fleet.recorders.aio.set(PROGRAM, max_records=max(100, size.recorded))
    keys, now_ms = FleetKeys(fleet.namespace), int(time.time() * 1_000)
    stream = keys.program_records(PROGRAM)

    def add(number: int) -> tuple[Any, ...]:
        session = f"tenant-{number % size.sessions:05}"
        inputs = {"question": f"What is {number} times {number + 3}? " + "Answer with care. " * 10}
        recorded = RecordedPrediction(
            f"{number:032x}", PROGRAM, 1, session, "1764000000000000.1", inputs, {"answer": str(number)},
            "LMError" if number % 50 == 0 else "", "openai/demo",
        )  # fmt: skip
        at = f"{now_ms - 500 * (size.recorded - number)}-0"
        return ("XADD", stream, at, "task", recorded.task_id, "record", recorded.encode())

    await _send(fleet, map(add, range(size.recorded)))


async def _count_costs(fleet: Fleet, size: FleetSize) -> None:
    """Count the costs of a day, in whose every hour predictions ended under each session."""
    keys, now_s, usage = FleetKeys(fleet.namespace), time.time(), LMUsage(1, 0, 400, 0, 60, 0, 2 * 10**8)
    sums = " ".join(map(str, (1, 1, 0, 400, 0, 60, 0, 200, 0)))

    def commands() -> Iterator[tuple[Any, ...]]:
        for hour in range(24):
            ended = EndedPrediction(PROGRAM, SESSION, "1.1", failed=False, by_profile={"bench": usage})
            hashes, _ = script_arguments(keys, ended, now_s=now_s - 3_600 * hour, days=35, first_key=1)
            by_program, by_revision, by_profile = hashes
            yield ("HSET", by_profile, "+bench", sums)
            for number in range(size.programs):
                yield ("HSET", by_program, f"+program-{number:04}", sums)
            for number in range(size.sessions):
                yield ("HSET", by_revision, f"+1764000000000000.1:tenant-{number:05}", sums)

    await _send(fleet, commands())


async def _audit(fleet: Fleet, count: int) -> None:
    stream = FleetKeys(fleet.namespace).audit

    def add(number: int) -> tuple[Any, ...]:
        kind = ("publish", "label", "rollout.promoted", "experiment.decided")[number % 4]
        entry = AuditEntry(
            kind, f"session:tenant-{number % 1_000:05}", "ann", reason="a try", names=("tone",), changes=1
        )
        return ("XADD", stream, "*", *(part for item in entry.encode().items() for part in item))

    await _send(fleet, map(add, range(count)))


async def _evaluate(fleet: Fleet, size: FleetSize) -> tuple[str, str]:
    store, now, ids = EvaluationStore(fleet.connection, FleetKeys(fleet.namespace)), time.time(), list[str]()
    for number in range(size.evaluations):
        results = [
            ExampleResult(
                f"{example:064x}", bool((example + number) % 3), inputs={"question": f"What is {example} times 7?"},
                labels={"answer": str(7 * example)}, outputs={"answer": str(7 * example)}, run_ms=12.0,
            )
            for example in range(size.examples)
        ]  # fmt: skip
        subject = EvaluationSubject(
            PROGRAM, 1 + number % 100, SESSION, "1.1", "golden", 1, "exact", "m:exact", "workers"
        )
        key = EvaluationKey(f"p{number}", "v", "d", "m")
        record = EvaluationRecord.build(key, subject, results, started_at=now, ended_at=now)
        await store.put(record, results)
        ids.append(record.id)
    return ids[0], ids[1]


async def _optimize(fleet: Fleet) -> str:
    store, now = JobStore(fleet.connection, FleetKeys(fleet.namespace)), time.time()
    arguments = OptimizationArguments(f"{PROGRAM}:1", "golden:1", {"reference": "m:exact"}, "MIPROv2").encode()
    trials = [TrialRecord(number, f"d{number}", number / 400, 100, number * 100) for number in range(1, 301)]
    record = OptimizationRecord("run", f"{PROGRAM}:1", "d1", "MIPROv2", "exact", "golden:1", trials=trials, best="d300")
    for number in range(100):
        job = Job(f"{number:032x}", "optimization", PROGRAM, SESSION, arguments, "bob", now + number)
        await store.put(job)
        await store.begin(job.id)
        await store.end(job.id, JobEnd("succeeded", now, record.encode()))
    return f"{99:032x}"


async def _gather(work: Callable[[Any], Coroutine[Any, Any, Any]], items: Iterable[Any]) -> None:
    for batch in _batched(items, _CALLS_AT_ONCE):
        await asyncio.gather(*map(work, batch))


async def _send(fleet: Fleet, commands: Iterable[tuple[Any, ...]]) -> None:
    for batch in _batched(commands, _COMMANDS_AT_ONCE):
        await fleet.connection.send_each(batch)


def _batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
