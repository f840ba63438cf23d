"""The shop's own tasks, in a module whose name is that of one of the fleet's folders."""

from __future__ import annotations

from celery import Task, shared_task


class TillTask(Task):
    """A task base of the shop's own."""

    abstract = True
    currency = "EUR"


@shared_task(base=TillTask, bind=True, name="tasks.total")
def total(self: TillTask, prices: list[float]) -> str:
    """Return the sum of the prices, with its currency."""
    return f"{sum(prices):.2f} {self.currency}"


@shared_task(name="tasks.label")
def label(text: str) -> str:
    """Return a label."""
    return text.upper()
