"""Changes of programs' labels that were approved, made exactly as they were requested."""

from __future__ import annotations

from snakepit_bridge.audit.requests import ApprovalRequest
from snakepit_bridge.exceptions import RolloutMovedError
from snakepit_bridge.programs.experiments import LabelExperiments
from snakepit_bridge.programs.registry import ProgramRegistry
from snakepit_bridge.programs.rollouts import ProgramRollouts
from snakepit_bridge.rollouts.experiment_changes import decode_experiment_event


async def apply_program_change(registry: ProgramRegistry, request: ApprovalRequest) -> str:
    """Make an approved change of a program's label, and return what it led to: a version, or an id.

    Args:
        registry: the programs.
        request: with all approvals that it needs.

    Raises:
        RolloutMovedError: the label isn't at what the request expects.
        ApprovalNotFoundError: somebody else has applied it meanwhile, or it has expired.
        BridgeError: what the change raises.
    """
    name, _, label = request.target.removeprefix("program:").partition("@")
    arguments, author, reason = request.arguments, request.author, request.reason
    if request.operation == "label":
        version: int = arguments["version"]
        await registry.label(
            name, label, version, author=author, reason=reason, expected=request.expected, approval=request.id
        )
        return str(version)
    if request.operation == "rollout.started":
        found = await registry.read_label(name, label)
        if found != request.expected:
            raise RolloutMovedError(request.target, request.expected, found)
        record = await ProgramRollouts(registry).start(
            name, label, arguments["version"], arguments["policy"], author=author, reason=reason, approval=request.id
        )
        return record.id
    event = decode_experiment_event(arguments, author, reason)
    experiments = LabelExperiments(registry, name, label)
    await experiments.replace_approved(arguments["before"], arguments["after"], event, request.id)
    return event.experiment.id
