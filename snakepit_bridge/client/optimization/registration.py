"""Register what an optimization found as a new version, with where it comes from."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from snakepit_bridge.client.optimization.optimize import Optimization, digest_spec
from snakepit_bridge.client.optimization.request import OptimizationRequest
from snakepit_bridge.client.resources import FleetResources
from snakepit_bridge.datasets.dataset import Dataset
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.programs.lineage import ProgramLineage, store_lineage


def register_winner(
    fleet: FleetResources, request: OptimizationRequest, found: Optimization, *, label: str | None, author: str
) -> Optimization:
    """Register the best program as the newest version, and return the optimization with it.

    Args:
        fleet: where it is registered.
        request: what was optimized.
        found: the optimization.
        label: what points at the version afterwards; None for none.
        author: who ran it.

    Raises:
        StoreUnavailableError: Redis is away.
    """
    parent, name = found.parent, found.parent.name
    # Where nothing better was found, its bindings stay as well.
    best = (
        parent.spec if found.start is not None and digest_spec(found.spec) == digest_spec(found.start) else found.spec
    )
    registered = run_blocking(fleet.registry.register(name, best, author=author))
    if registered.digest != parent.digest:
        lineage = ProgramLineage(
            parent=f"{name}:{parent.version}",
            optimizer=found.optimizer,
            run_id=found.run_id,
            metric=request.metric_name,
            trainset=_digest(request.trainset),
            valset=_digest(request.valset or ()),
            score=found.score,
            parent_score=found.parent_score,
            predictions=found.predictions,
            usd=found.usd,
            author=author,
            at=time.time(),
        )
        run_blocking(store_lineage(fleet.connection, fleet.registry.keys, name, registered.version, lineage))
    if label is not None:
        reason = f"found by {found.optimizer}"
        run_blocking(fleet.registry.label(name, label, registered.version, author=author, reason=reason))
    record = replace(found.record, version=registered.version, label=label or "", author=author)
    return replace(found, record=record, registered=registered)


def _digest(examples: Sequence[Any]) -> str:
    """Return the digest that examples have as a dataset; empty for none."""
    if not examples:
        return ""
    return Dataset.build("examples", examples).digest
