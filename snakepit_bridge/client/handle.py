"""Handle: one submitted prediction, to wait for, look at or cancel, in this process or any other."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from snakepit_bridge.loop import run_blocking, run_home

if TYPE_CHECKING:
    from snakepit_bridge.client.prediction import FleetPrediction
    from snakepit_bridge.client.results import Results


class Handle:
    """A prediction on the fleet.

    Args:
        task_id: id of its task; enough to make another handle for it anywhere.
        results: the results of the process.
        wait_s: seconds that waiting takes at most, unless a call says otherwise.
        on_cancel: told the id of a task that was cancelled.
    """

    def __init__(self, task_id: str, results: Results, wait_s: float, on_cancel: Callable[[str], None]) -> None:
        self.id = task_id
        self._results = results
        self._wait_s = wait_s
        self._on_cancel = on_cancel

    def __repr__(self) -> str:
        return f"Handle({self.id!r})"

    @property
    def status(self) -> str:
        """Celery's state of the task: PENDING (also of an unknown id), RETRY, SUCCESS, FAILURE or REVOKED."""
        return run_blocking(self._results.outcome(self.id)).state

    def ready(self) -> bool:
        """Tells whether the prediction has ended, well or not."""
        return run_blocking(self._results.outcome(self.id)).ready

    def get(self, timeout: float | None = None) -> FleetPrediction:
        """Waits for the prediction and returns it, with its provenance.

        Args:
            timeout: seconds to wait; the fleet's own bound if None.

        Raises:
            PredictionTimeout: there was no result in time; the prediction goes on.
            BridgeError: the prediction ended with this error.
        """
        return run_blocking(self._get(timeout))

    def __await__(self) -> Generator[Any, None, FleetPrediction]:
        return run_home(self._get(None)).__await__()

    def cancel(self) -> bool:
        """Cancels the prediction unless it has ended; tells whether it is cancelled now.

        The cancellation is stored: a worker that gets the task later drops it. One that runs it already may still
        finish its LM call, whose answer nobody gets.

        Raises:
            StoreUnavailableError: the result backend is away.
        """
        cancelled = run_blocking(self._results.cancel(self.id))
        if cancelled:
            self._on_cancel(self.id)
        return cancelled

    async def _get(self, wait_s: float | None) -> FleetPrediction:
        result = await self._results.wait(self.id, self._wait_s if wait_s is None else wait_s)
        # DSPy is loaded here, with the first prediction, and not when the client is imported.
        from snakepit_bridge.client.prediction import FleetPrediction

        return FleetPrediction.of(result)
