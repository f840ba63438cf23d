"""What the Python client can do with a fleet, applications in other languages can do through the gateway.

Each public method is either offered, by an operation that takes each of its arguments, or listed with the reason why
not.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pytest
from google.protobuf.descriptor import MethodDescriptor

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.approvals import Approvals
from snakepit_bridge.client.datasets import Datasets
from snakepit_bridge.client.dead_letters import BlockingDeadLetters
from snakepit_bridge.client.evaluations import Evaluations
from snakepit_bridge.client.experiments import Experiments
from snakepit_bridge.client.handle import Handle
from snakepit_bridge.client.jobs import AsyncJobs, Jobs
from snakepit_bridge.client.judges import Judges
from snakepit_bridge.client.protections import FleetProtections
from snakepit_bridge.client.recorders import Recorders
from snakepit_bridge.client.rollouts import AsyncRollouts, Rollouts
from snakepit_bridge.session_context import SessionContext
from tests.unit.workers.gateway.test_operations import RPCS

FACADES: Mapping[str, type[Any]] = {
    "Fleet": Fleet,
    "rollouts": Rollouts,
    "rollouts.aio": AsyncRollouts,
    "experiments": Experiments,
    "judges": Judges,
    "dead_letters": BlockingDeadLetters,
    "protections": FleetProtections,
    "approvals": Approvals,
    "datasets": Datasets,
    "recorders": Recorders,
    "evaluations": Evaluations,
    "jobs": Jobs,
    "jobs.aio": AsyncJobs,
    "SessionContext": SessionContext,
    "Handle": Handle,
}
# Awaitable methods of the same names do the same.
OF_BLOCKING_ONES = {f"rollouts.aio.{name}" for name in vars(Rollouts)} | {f"jobs.aio.{name}" for name in vars(Jobs)}


@dataclass(frozen=True)
class Offer:
    """How the gateway offers a method.

    Attributes:
        rpc: the operation.
        fields: arguments to the fields that carry them, where the names differ by more than ``_json`` and ``_s``.
        elsewhere: arguments that no field carries, with the reason.
    """

    rpc: str
    fields: Mapping[str, str] = field(default_factory=dict[str, str])
    elsewhere: Mapping[str, str] = field(default_factory=dict[str, str])


PREDICTION = {"task_id": "id"}
SPEC: Mapping[str, str] = dict[str, str].fromkeys(
    ("module", "bindings", "arguments", "choose_by", "among", "lm", "cache", "executes_code", "journal"), "spec_json"
)
AUTHOR: Mapping[str, str] = {"author": "the gateway records the name of the token"}
GATES = {"require": "a gate is a condition on the score of an evaluation, which the gateway starts and returns"}
EVALUATION_OPTIONS = {"options": "in_flight, failure_score, repeat, keep_s and drop_content are fields of the request"}
DURABILITY = {"durability": "it is a setting of the gateway, DSPEX_DURABILITY, for all that it publishes"}
OFFERED: Mapping[str, Offer] = {
    "Fleet.submit": Offer("Predictions.Submit"),
    "Fleet.submit_batch": Offer("Predictions.SubmitBatch", {"idempotency_keys": "idempotency_key"}),
    "Fleet.score": Offer("Scores.Score", PREDICTION),
    "Fleet.scores": Offer("Scores.List", PREDICTION),
    "Fleet.lm_calls": Offer("Predictions.ListLMCalls", PREDICTION),
    "Fleet.replay": Offer("Predictions.Replay", PREDICTION),
    "Fleet.register": Offer("Programs.Register", SPEC, {"trial": "a spec has no instance that could be run", **AUTHOR}),
    "Fleet.label": Offer("Programs.SetLabel", elsewhere=GATES),
    "Fleet.programs": Offer("Programs.List"),
    "Fleet.versions": Offer("Programs.ListVersions"),
    "Fleet.lineage": Offer("Programs.Get", {"program": "reference"}),
    "Fleet.cost": Offer("Costs.Report"),
    "Fleet.applied": Offer("Sessions.Get"),
    "Fleet.promote": Offer("Sessions.Promote", elsewhere=GATES),
    "rollouts.start": Offer("Rollouts.Start", {"candidate": "values_json"}, GATES),
    "rollouts.list": Offer("Rollouts.List"),
    "rollouts.show": Offer("Rollouts.Show"),
    "rollouts.events": Offer("Rollouts.Watch", elsewhere={"limit": "a reader of the stream stops when it likes"}),
    "rollouts.aio.watch": Offer("Rollouts.Watch"),
    "rollouts.advance": Offer("Rollouts.Advance"),
    "rollouts.pause": Offer("Rollouts.Pause"),
    "rollouts.resume": Offer("Rollouts.Resume"),
    "rollouts.abort": Offer("Rollouts.Abort"),
    "experiments.start": Offer("Experiments.Start", {"plan": "arms"}),
    "experiments.list": Offer("Experiments.List"),
    "experiments.show": Offer("Experiments.Show"),
    "experiments.events": Offer("Experiments.Events"),
    "experiments.decide": Offer("Experiments.Decide"),
    "experiments.stop": Offer("Experiments.Stop"),
    "judges.add": Offer("Judges.Add"),
    "judges.remove": Offer("Judges.Remove"),
    "judges.list": Offer("Judges.List"),
    "dead_letters.count": Offer("DeadLetters.List"),
    "dead_letters.ids": Offer("DeadLetters.List"),
    "dead_letters.latest": Offer("DeadLetters.List"),
    "dead_letters.get": Offer("DeadLetters.Get"),
    "dead_letters.retry": Offer("DeadLetters.Retry", elsewhere=AUTHOR),
    "dead_letters.drop": Offer("DeadLetters.Drop", elsewhere=AUTHOR),
    "Fleet.audit": Offer("Audit.List", {"session": "of_session"}),
    "protections.list": Offer("Protections.List"),
    "protections.protect": Offer("Protections.Protect"),
    "protections.unprotect": Offer("Protections.Unprotect"),
    "approvals.list": Offer("Approvals.List"),
    "approvals.get": Offer("Approvals.Get"),
    "approvals.approve": Offer("Approvals.Approve"),
    "approvals.reject": Offer("Approvals.Reject"),
    "Fleet.evaluate": Offer("Evaluations.Start", elsewhere=EVALUATION_OPTIONS),
    "Fleet.aevaluate": Offer("Evaluations.Start", elsewhere=EVALUATION_OPTIONS),
    "Fleet.optimize": Offer(
        "Optimizations.Start",
        {"budget": "max_usd", "run_id": "request_id"},
        {"on_progress": "Jobs.Watch streams it"},
    ),
    "datasets.add": Offer("Datasets.Add"),
    "datasets.from_predictions": Offer(
        "Datasets.AddFromPredictions", {"session": "under_session", "token": "under_token"}
    ),
    "datasets.get": Offer("Datasets.ListExamples"),
    "datasets.find": Offer("Datasets.Get"),
    "datasets.list": Offer("Datasets.List"),
    "datasets.versions": Offer("Datasets.ListVersions"),
    "datasets.diff": Offer("Datasets.Diff"),
    "datasets.remove": Offer("Datasets.Remove"),
    "recorders.set": Offer("Recorders.Set"),
    "recorders.list": Offer("Recorders.List"),
    "recorders.remove": Offer("Recorders.Remove"),
    "evaluations.run": Offer("Evaluations.Start", elsewhere=EVALUATION_OPTIONS),
    "evaluations.run_arms": Offer("Evaluations.Start", elsewhere=EVALUATION_OPTIONS),
    "evaluations.list": Offer("Evaluations.List"),
    "evaluations.get": Offer("Evaluations.Get", {"evaluation": "id"}),
    "evaluations.results": Offer("Evaluations.ListExamples", {"evaluation": "id"}),
    "evaluations.compare": Offer("Evaluations.Compare"),
    "jobs.evaluate": Offer("Evaluations.Start", {"job_id": "request_id"}, EVALUATION_OPTIONS),
    "jobs.optimize": Offer("Optimizations.Start", {"budget": "max_usd", "job_id": "request_id"}),
    "jobs.list": Offer("Jobs.List"),
    "jobs.get": Offer("Jobs.Get", {"job": "id"}),
    "jobs.wait": Offer("Jobs.Watch", {"job": "id"}, {"timeout_s": "a reader of the stream stops when it likes"}),
    "jobs.aio.watch": Offer("Jobs.Watch", {"job": "id"}),
    "jobs.cancel": Offer("Jobs.Cancel", {"job": "id"}, AUTHOR),
    "SessionContext.snapshot": Offer("Variables.Get"),
    "SessionContext.get_variable": Offer("Variables.Get", {"name": "names"}),
    "SessionContext.get_variables": Offer("Variables.Get"),
    "SessionContext.list_variables": Offer("Variables.Get"),
    "SessionContext.set_variable": Offer("Variables.Publish"),
    "SessionContext.set_variables": Offer("Variables.Publish", {"values": "changes", "types": "type"}, DURABILITY),
    "SessionContext.change": Offer("Variables.Publish", {"proposal": "changes", "names": "changes"}, DURABILITY),
    "SessionContext.register_variable": Offer("Variables.Publish"),
    "SessionContext.delete_variable": Offer("Variables.Publish"),
    "SessionContext.history": Offer("Variables.History"),
    "SessionContext.diff": Offer("Variables.Diff", {"a": "before", "b": "after"}),
    "SessionContext.rollback": Offer("Variables.Rollback", elsewhere=DURABILITY),
    "SessionContext.label": Offer("Sessions.SetLabel", {"name": "label"}),
    "SessionContext.labels": Offer("Sessions.ListLabels"),
    "SessionContext.watch": Offer("Variables.Watch"),
    "Handle.status": Offer("Predictions.Get"),
    "Handle.ready": Offer("Predictions.Get"),
    "Handle.outcome": Offer("Predictions.Get"),
    "Handle.get": Offer("Predictions.Await"),
    "Handle.stream": Offer("Predictions.Stream"),
    "Handle.cancel": Offer("Predictions.Cancel", elsewhere=AUTHOR),
    "Handle.acancel": Offer("Predictions.Cancel", elsewhere=AUTHOR),
    "Handle.score": Offer("Scores.Score"),
    "Handle.ascore": Offer("Scores.Score"),
    "Handle.scores": Offer("Scores.List"),
}

_CONNECTION = "what a Python process is connected to"
_LOCAL = "of this process, not of the fleet"
NOT_OFFERED: Mapping[str, str] = {
    "experiments.list_all": "a gateway lists the experiments of each target that its caller may see",
    **dict.fromkeys(
        (
            f"Fleet.{name}"
            for name in (
                "url", "broker", "on_rabbitmq", "app", "store", "elixir", "results", "payloads", "chunks", "registry",
                "acks", "allowed_packages", "wait_s", "audit_trail",
            )
        ),
        _CONNECTION,
    ),
    **dict.fromkeys(
        (
            f"Fleet.{name}"
            for name in (
                "rollouts", "experiments", "judges", "dead_letters", "session", "datasets", "recorders", "evaluations",
                "jobs", "protections", "approvals",
            )
        ),
        "its methods are in this list themselves",
    ),
    **dict.fromkeys(
        ("Fleet.submit_examples", "Fleet.store_variant"), "a part of evaluations and optimizations, which run in Python"
    ),
    "evaluations.check": "a gate is a condition on the score of an evaluation, which the gateway starts and returns",
    "Fleet.lm_batches": "they are looked at and cancelled by operators, who have a shell",
    "Fleet.send_task": "another task is of the fleet's own, or an application's that sends it itself",
    "Fleet.cipher": "keys stay in the processes that encrypt; the gateway is one of them",
    "Fleet.handle": "an id is all that other languages need of a handle",
    "Fleet.map": "SubmitBatch and Await do it, with whatever bound on what is in flight the application likes",
    "Fleet.map_file": "it reads and writes files of the machine that it runs on; SubmitBatch and Await do the rest",
    "Handle.reply_channel": _CONNECTION,
    "Fleet.signature": "Celery's canvas exists in Python alone",
    "Fleet.prediction": "Celery's canvas exists in Python alone",
    "Fleet.program": "DSPy exists in Python alone",
    "SessionContext.modules": _LOCAL,
    "SessionContext.add_module": _LOCAL,
    "SessionContext.blocking": "the same methods for callers that can't await",
}  # fmt: skip


def public_names(kind: type[Any]) -> Iterator[str]:
    """Iterate over the public methods and properties of a class, those that it inherits included."""
    for name, member in inspect.getmembers(kind):
        if not name.startswith("_") and (callable(member) or isinstance(member, property | cached_property)):
            yield name


METHODS = [f"{facade}.{name}" for facade, kind in FACADES.items() for name in public_names(kind)]


def fields_of(rpc: MethodDescriptor) -> set[str]:
    """Return the names of a request's fields, with those of the messages that it repeats."""
    request = rpc.input_type
    parts = [each.message_type for each in request.fields if each.message_type is not None]
    return {each.name for message in (request, *parts) for each in message.fields}


@pytest.mark.parametrize("method", [method for method in METHODS if method not in OF_BLOCKING_ONES])
def test_a_method_is_offered_or_there_is_a_reason(method: str) -> None:
    assert (method in OFFERED) != (method in NOT_OFFERED), (
        "offer it in proto/dspex/fleet/v1/fleet.proto, and name its operation here, or say here why it isn't offered"
    )


def test_nothing_is_listed_that_is_not_there() -> None:
    assert {*OFFERED, *NOT_OFFERED} <= set(METHODS)


@pytest.mark.parametrize("method", OFFERED)
def test_an_operation_takes_each_argument(method: str) -> None:
    offer, (facade, _, name) = OFFERED[method], method.rpartition(".")
    found = fields_of(RPCS[offer.rpc])
    member = inspect.getattr_static(FACADES[facade], name)
    parameters = inspect.signature(member).parameters if callable(member) else {}
    for argument in [each for each in parameters if each != "self" and each not in offer.elsewhere]:
        names = {offer.fields.get(argument, argument), f"{argument}_json", f"{argument}_s"}
        assert names & found, f"{offer.rpc} takes no {argument}; it takes {', '.join(sorted(found))}"
