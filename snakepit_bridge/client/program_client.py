"""ProgramClient: register programs and variants of them, label their versions, and list them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from snakepit_bridge.client.prediction_client import PredictionClient
from snakepit_bridge.client.registration import build_spec
from snakepit_bridge.client.release_gates import GivenGates, ReleaseChecks
from snakepit_bridge.process.home_loop import run_blocking

if TYPE_CHECKING:
    from snakepit_bridge.programs.lineage import ProgramLineage
    from snakepit_bridge.programs.registry import Program, ProgramListing, ProgramVersion
    from snakepit_bridge.programs.spec import ProgramSpec
    from snakepit_bridge.rollouts.records import RolloutRecord


class ProgramClient(PredictionClient):
    """The part of :class:`Fleet` that registers programs and looks after their versions."""

    def register(
        self,
        name: str,
        module: Any,
        bindings: Mapping[str, str] | None = None,
        *,
        arguments: Mapping[str, Any] | None = None,
        choose_by: str | None = None,
        among: Iterable[str] = (),
        lm: str | None = None,
        cache: Mapping[str, Any] | None = None,
        executes_code: bool = False,
        journal: bool | None = None,
        trial: bool = True,
        author: str = "",
    ) -> Program:
        """Register a program as its newest version and return it; an unchanged one keeps its version.

        Args:
            name: what tasks call it.
            module: a DSPy module, a :class:`ProgramSpec`, or a spec as a mapping or JSON text.
            bindings: module attribute to session variable.
            arguments: constructor arguments, for a module class of one's own.
            choose_by: session variable that names the module type, ``among`` these.
            lm: LM profile.
            cache: how its LM calls share their answers, such as ``{"ttl_s": 600, "share": "fleet"}``; without it each
                call is a request to the provider.
            executes_code: whether code of its own computes or executes code rather than waits, as ProgramOfThought,
                CodeAct and RLM do. It then runs on workers on prefork.
            journal: whether what its LM calls are answered is recorded until its result is committed, so that a
                prediction whose worker dies isn't paid twice. None for programs that make more than one call or use
                tools.
            trial: whether a module instance is run here with placeholders, without an LM, beside the one that a worker
                would build, to see that both ask the same. What it does beside its LM calls it does in a trial too.
            author: who registers it, for the audit trail.

        Raises:
            ProgramSpecError: a part of it is refused; nothing was stored.
            UnknownModuleError: it names a module type that isn't registered.
            StoreUnavailableError: Redis is away.
        """
        options = {
            "bindings": bindings,
            "arguments": arguments,
            "choose_by": choose_by,
            "among": tuple(among),
            "lm": lm,
            "cache": cache,
            "executes_code": executes_code,
            "journal": journal,
        }
        spec = self._build_checked_spec(name, module, options, trial=trial)
        return run_blocking(self.registry.register(name, spec, author=author))

    def store_variant(
        self,
        name: str,
        module: Any,
        bindings: Mapping[str, str] | None = None,
        *,
        arguments: Mapping[str, Any] | None = None,
        lm: str | None = None,
        cache: Mapping[str, Any] | None = None,
        executes_code: bool = False,
        journal: bool | None = None,
        trial: bool = True,
    ) -> str:
        """Store a variant of a program without registering it, and return the reference under which it runs for a day.

        It passes the checks of a registered one, and asks an LM the same. Its predictions are neither judged nor
        recorded, and its provenance has version 0.

        Args:
            name: the program that it is a variant of, which need not be registered; its costs are counted there.
            module, bindings, arguments, lm, cache, executes_code, journal, trial: as in :meth:`register`.

        Raises:
            what :meth:`register` does.
        """
        options = {
            "bindings": bindings,
            "arguments": arguments,
            "choose_by": None,
            "among": (),
            "lm": lm,
            "cache": cache,
            "executes_code": executes_code,
            "journal": journal,
        }
        spec = self._build_checked_spec(name, module, options, trial=trial)
        return str(run_blocking(self.registry.store_variant(name, spec)))

    def _build_checked_spec(self, name: str, module: Any, options: dict[str, Any], *, trial: bool) -> ProgramSpec:
        from snakepit_bridge.dspy_integration.bounds import DEFAULT_BOUNDS
        from snakepit_bridge.programs.build import check_spec

        bounds = self._target_bounds or DEFAULT_BOUNDS
        trial = trial and not options["executes_code"]
        spec, allowed = build_spec(name, module, self._allowed, options, bounds=bounds, trial=trial)
        check_spec(spec, allowed, program=name, bounds=bounds)
        return spec

    def lineage(self, program: str) -> ProgramLineage | None:
        """Return where a version of a program comes from, such as ``qa:4``; None if no optimizer found it.

        Raises:
            ProgramNotFoundError: there is no such program.
        """
        from snakepit_bridge.programs.lineage import read_lineage

        found = run_blocking(self.registry.get(program))
        return run_blocking(read_lineage(self.connection, self.registry.keys, found.name, found.version))

    def label(
        self,
        name: str,
        label: str,
        version: int,
        *,
        author: str = "",
        reason: str = "",
        require: GivenGates = (),
    ) -> RolloutRecord | None:
        """Point a label such as ``prod`` at a version of a program; an open rollout of the label ends by it.

        Args:
            name, label, version: what is to point where.
            author, reason: recorded in the audit trail, and with the end of the rollout.
            require: conditions on evaluations of the version, such as ``exact(golden) >= baseline - 0.02``. The
                baseline is what the label points at.

        Returns:
            The rollout that it ended; None for none.

        Raises:
            GateFailedError: a condition isn't met; the label stays.
            ApprovalRequiredError: a rule protects the label; a request waits for approval.
            ProgramNotFoundError: there is no such version.
        """
        run_blocking(ReleaseChecks(self).check_version(name, label, version, require))
        return run_blocking(self.registry.label(name, label, version, author=author, reason=reason))

    def programs(self) -> list[ProgramListing]:
        """Return the registered programs, by name."""
        return run_blocking(self.registry.list())

    def versions(self, name: str) -> list[ProgramVersion]:
        """Return every version of a program, the newest first, with the labels that point at it.

        Raises:
            ProgramNotFoundError: there is no such program.
        """
        return run_blocking(self.registry.versions(name))
