"""What an evaluation runs: a program at one version, under one revision of a session, pinned before it starts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snakepit_bridge.datasets.dataset import Dataset
from snakepit_bridge.evaluations.jobs import PinnedArm
from snakepit_bridge.exceptions import EvaluationError, LabelNotFoundError, SessionNotFoundError
from snakepit_bridge.programs.registry import UNREGISTERED, Program, ProgramRegistry, Reference
from snakepit_bridge.programs.spec import ModuleVariable
from snakepit_bridge.protocol.messages import DEFAULT_SESSION
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.rollouts.records import RESERVED_PREFIX
from snakepit_bridge.snapshots import SnapshotStore
from snakepit_bridge.snapshots.records import Retention
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables import Variable

LATEST = "latest"
"""The newest revision of a session."""

# A session of a candidate's values is for one check of gates, and its name for these values.
_STAGED_S = 86_400.0
_NAME_CHARACTERS = 32


@dataclass(frozen=True, slots=True)
class EvaluationArm:
    """A program and a revision, side by side with others or alone.

    Attributes:
        name: as it was asked for.
        program: the program at its version.
        session: whose variables it runs under.
        token: their revision; empty if the session was never published.
        values_digest: of the values that the program reads.
        lm_digest: of the LM that it calls, as workers have it; empty until one was asked.
    """

    name: str
    program: Program
    session: str
    token: str
    values_digest: str
    lm_digest: str = ""

    @property
    def reference(self) -> str:
        """The reference of the program's version, or of the variant."""
        program = self.program
        if program.version == UNREGISTERED:
            return str(Reference(program.name, digest=program.digest))
        return str(Reference(program.name, version=program.version))


class ArmResolver:
    """Finds what the names of arms stand for.

    Args:
        registry: the programs.
        store: the sessions.
    """

    def __init__(self, registry: ProgramRegistry, store: SnapshotStore) -> None:
        self._registry = registry
        self._store = store

    async def resolve(self, program: str, session: str, at: Token | str = LATEST) -> EvaluationArm:
        """Return a program, and a revision of a session, as an arm.

        Args:
            program: reference of the program.
            session: whose variables it runs under.
            at: the revision: a token, a label or ``latest``.

        Raises:
            ProgramNotFoundError: there is no such program.
            SessionNotFoundError: the session was never published, and isn't the default one.
            LabelNotFoundError, RevisionLostError: there is no such revision.
            VariableNotFoundError: the program reads a variable that the revision lacks.
            StoreUnavailableError: Redis is away.
        """
        found = await self._registry.get(program)
        snapshot = await self._read(session, at)
        token = "" if snapshot is None else str(snapshot.token)
        return EvaluationArm(str(at), found, session, token, digest_values(found, snapshot, session))

    async def resolve_named(self, name: str, program: str, session: str) -> EvaluationArm:
        """Return an arm by its name: a token or label of the session, ``latest``, or a label or version of the program.

        Raises:
            EvaluationError: it is none of these.
            BridgeError: what :meth:`resolve` raises.
        """
        base = Reference.parse(program)
        if name.startswith((f"{base.name}@", f"{base.name}:", f"{base.name}#")):
            return _rename(await self.resolve(name, session), name)
        try:
            return await self.resolve(program, session, name)
        except (LabelNotFoundError, SessionNotFoundError):
            listing = next((each for each in await self._registry.list() if each.name == base.name), None)
            labels = {} if listing is None else listing.labels
            if name not in labels:
                known = ", ".join(f"{base.name}@{label}" for label in labels) or "none"
                problem = f"'{name}' is no revision of session '{session}', and no label of the program ({known})"
                raise EvaluationError("arm", problem) from None
            return _rename(await self.resolve(f"{base.name}@{name}", session), name)

    async def resolve_pinned(self, pinned: PinnedArm) -> EvaluationArm:
        """Return an arm at its version and revision.

        Raises:
            BridgeError: what :meth:`resolve` raises.
        """
        return _rename(await self.resolve(pinned.program, pinned.session, pinned.token or LATEST), pinned.name)

    async def pin(
        self, program: str, dataset: Dataset, session: str, exactly: Token | str | None, names: Sequence[str] | None
    ) -> list[PinnedArm]:
        """Return what an evaluation is to run, at its present versions and revisions.

        Args:
            program: reference of the program.
            dataset: whose inputs have to fit it.
            session: whose variables it runs under.
            exactly: their revision; the newest if None. Without effect on arms that are named.
            names: of the arms; None for a single one.

        Raises:
            EvaluationError: an arm isn't there or is named twice, or the dataset doesn't fit.
            BridgeError: what :meth:`resolve` raises.
        """
        if names is None:
            arms = [await self.resolve(program, session, exactly or LATEST)]
        else:
            check_names(names)
            arms = [await self.resolve_named(name, program, session) for name in names]
        check_fields(arms, dataset)
        return [PinnedArm(arm.name, arm.reference, arm.session, arm.token) for arm in arms]

    async def _read(self, session: str, at: Token | str) -> Snapshot | None:
        try:
            return await self._store.read_at(session, at)
        except SessionNotFoundError:
            # Predictions run under the default session before its first publish too.
            if session != DEFAULT_SESSION or str(at) != LATEST:
                raise
            return None


def _rename(arm: EvaluationArm, name: str) -> EvaluationArm:
    return EvaluationArm(name, arm.program, arm.session, arm.token, arm.values_digest)


def digest_values(program: Program, snapshot: Snapshot | None, session: str) -> str:
    """Return the digest of the values that a program reads: a publish of other variables doesn't change it.

    Args:
        program: the program.
        snapshot: the revision; None if the session was never published.
        session: its name.

    Raises:
        VariableNotFoundError: the program reads a variable that the revision lacks.
    """
    spec, empty = program.spec, Snapshot(session, Token(0, 0), {}, 0.0)
    chosen = [spec.module.variable] if isinstance(spec.module, ModuleVariable) else []
    used = snapshot or empty
    content = hashlib.sha256()
    for name in sorted({*chosen, *spec.bindings.values()}):
        used.value(name)
        for part in (name.encode(), used.variables[name].encode()):
            content.update(len(part).to_bytes(8, "big"))
            content.update(part)
    return content.hexdigest()


def check_names(arms: Sequence[str]) -> None:
    """Check that arms have names, each once.

    Raises:
        EvaluationError: they don't.
    """
    if len(set(arms)) < len(arms) or not arms:
        raise EvaluationError("arms", f"name each arm once; got {', '.join(arms) or 'none'}")


def check_fields(arms: Sequence[EvaluationArm], dataset: Dataset) -> None:
    """Check that the inputs of a dataset fit the signatures of the programs, where these are known here.

    Raises:
        EvaluationError: an input is missing, or none of the program's.
    """
    for arm in arms:
        signature = arm.program.spec.signature
        # A class of one's own may take other inputs than its signature has; workers check those.
        if signature is None or any(":" in name for name in arm.program.spec.module_names):
            continue
        fields = [field for field in signature.fields if field.direction == "input"]
        required = {field.name for field in fields if not field.has_default}
        given, known = set(dataset.inputs), {field.name for field in fields}
        if not required <= given <= known:
            problem = (
                f"its inputs are {_list(dataset.inputs)}, and program '{arm.reference}' takes "
                f"{_list(field.name for field in fields)}; mark the examples' inputs accordingly"
            )
            raise EvaluationError(f"dataset '{dataset}'", problem)


def _list(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


async def stage_values(store: SnapshotStore, session: str, values: Mapping[str, Any]) -> str:
    """Publish a session's newest values with some changes to a session of its own, and return that one's name.

    Args:
        store: the sessions.
        session: whose values they are; it isn't changed.
        values: variable name to value, or to the variable itself.

    Raises:
        SessionNotFoundError: the session was never published.
        ValidationError: a value violates its type or a constraint.
        StoreUnavailableError: Redis is away.
    """
    present = (await store.read(session)).variables
    changes = {name: change_variable(name, value, present.get(name)) for name, value in values.items()}
    wanted = {name: each for name, each in {**present, **changes}.items() if not name.startswith(RESERVED_PREFIX)}
    content = hashlib.sha256(b"".join(name.encode() + wanted[name].encode() for name in sorted(wanted)))
    staged = f"evaluation.{content.hexdigest()[:_NAME_CHARACTERS]}"
    await store.publish(staged, wanted, replace=True, reason=f"evaluate a candidate of {session}")
    await store.retain(staged, Retention(ttl_s=_STAGED_S))
    return staged


def change_variable(name: str, value: Any, present: Variable | None) -> Variable:
    """Return a variable with another value; one that exists keeps its type and constraints.

    Args:
        name: of the variable.
        value: the value, or the variable itself.
        present: what there is of it now.

    Raises:
        ValidationError: the value violates its type or a constraint.
    """
    if isinstance(value, Variable):
        return value
    return Variable.declare(name, value) if present is None else present.with_value(value)
