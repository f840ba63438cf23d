"""The console's pages, in the order of its menu."""

from __future__ import annotations

from workers.gateway.console.page import Page
from workers.gateway.console.pages import (
    audit,
    costs,
    dead_letters,
    evaluations,
    experiments,
    fleet,
    jobs,
    predictions,
    programs,
    rollouts,
    session_changes,
    sessions,
)

PAGES: tuple[Page, ...] = (
    *fleet.PAGES,
    *sessions.PAGES,
    *session_changes.PAGES,
    *rollouts.PAGES,
    *experiments.PAGES,
    *predictions.PAGES,
    *programs.PAGES,
    *evaluations.PAGES,
    *jobs.PAGES,
    *costs.PAGES,
    *dead_letters.PAGES,
    *audit.PAGES,
)
"""Every page. What a visitor may not call isn't there for them."""
