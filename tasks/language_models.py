"""``tasks.describe_lm``: what is behind the LM of a program, so that an evaluation is told from one by another LM."""

from __future__ import annotations

import hashlib
import json
from typing import Any, cast

from celery import Task, shared_task

from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.lm.profiles import ChosenLM, LMProfiles
from snakepit_bridge.protocol.messages import DESCRIBE_LM, PredictionRequest, Requirement, Result, check_session
from tasks import DELIVERY
from tasks.preparation import prepare
from tasks.requests import parse_delivery
from tasks.runtime import HasRuntime


@shared_task(bind=True, name=DESCRIBE_LM, typing=False, throws=(BridgeError,), **DELIVERY)
async def describe_lm(self: Task, program: str, session: str, token: str) -> dict[str, Any]:
    """Return the digest of the LM that a program calls under a revision, and its profile, as outputs of a result.

    Args:
        self: the task.
        program: reference of the program.
        session: whose variables it runs under.
        token: their revision; empty if the session was never published.
    """
    runtime = cast(HasRuntime, self.app).runtime
    required = Requirement.of(exactly=token or None)
    request = PredictionRequest(program, {}, check_session(session), required, namespace=runtime.payloads.namespace)
    choice = (await prepare(runtime, request, parse_delivery(self), key="")).applied.bound.choice
    return Result({"digest": digest_lm(runtime.profiles, choice), "profile": choice.profile}, {}).encode()


def digest_lm(profiles: LMProfiles, choice: ChosenLM) -> str:
    """Return the digest of what answers the calls of an LM: models, endpoints and settings, also of its fallbacks.

    Limits, retries, prices and keys aren't part of it: they change no answer.
    """
    names = [choice.profile, *profiles[choice.profile].fallbacks]
    models = [choice.lm.model, *(profiles[name].model for name in names[1:])]
    content = [_describe(profiles, name, model) for name, model in zip(names, models, strict=True)]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=repr).encode()).hexdigest()


def _describe(profiles: LMProfiles, name: str, model: str) -> list[Any]:
    profile = profiles[name]
    # Headers may hold secrets, which rotate.
    settings = {key: value for key, value in profile.parameters.items() if "headers" not in key}
    return [model, profile.api_base, settings, profile.engine, list(profile.middleware)]
