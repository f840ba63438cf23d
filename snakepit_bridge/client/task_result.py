"""TaskResult: a task's state, parsed from what Celery's result backend stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from celery import Celery, states

from snakepit_bridge.exceptions import BridgeError, ConfigurationError, PredictionCancelledError, PredictionFailedError
from snakepit_bridge.protocol.json_values import read_message
from snakepit_bridge.protocol.messages import Result
from snakepit_bridge.protocol.task_state import is_final_state


@dataclass(frozen=True, slots=True)
class TaskResult:
    """A task's stored state: a Celery state, and the result or the error if it is final."""

    state: str
    result: Result | None = None
    error: BridgeError | None = None

    @property
    def ready(self) -> bool:
        """Whether the state is final."""
        return is_final_state(self.state)


PENDING = TaskResult(states.PENDING)


def parse_task_result(app: Celery, task_id: str, stored: bytes | str | None) -> TaskResult:
    """Parse a task's stored result; PENDING where there is none, also for an unknown id."""
    if stored is None:
        return PENDING
    meta = cast(dict[str, Any], read_message(stored))
    state = meta["status"]
    if state == states.SUCCESS:
        return _parse_success(task_id, meta["result"])
    if state in states.EXCEPTION_STATES and state != states.RETRY:
        return TaskResult(state, error=_to_bridge_error(task_id, app.backend.exception_to_python(meta["result"])))
    return TaskResult(state)


def result_or_raise(outcome: TaskResult) -> Result:
    """Return the result of a final outcome, or raises what it ended with.

    Raises:
        BridgeError: the task ended with this error.
    """
    if outcome.error is not None:
        raise outcome.error
    assert outcome.result is not None
    return outcome.result


def _parse_success(task_id: str, message: Any) -> TaskResult:
    if not isinstance(message, dict):
        what = f"task {task_id} is no prediction: its result is {message!r}"
        raise PredictionFailedError("unknown", "TypeError", what)
    try:
        return TaskResult(states.SUCCESS, Result.decode(cast(dict[str, Any], message)))
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from exc


def _to_bridge_error(task_id: str, raised: BaseException | None) -> BridgeError:
    """Return the error that a task ended with; Celery's own, such as a lost worker, become PredictionFailedError."""
    if isinstance(raised, BridgeError):
        return raised
    if type(raised).__name__ == "TaskRevokedError":
        return PredictionCancelledError(task_id)
    return PredictionFailedError("unknown", type(raised).__name__, _text(raised))


def _text(raised: BaseException | None) -> str:
    try:
        return str(raised)
    except Exception:  # noqa: BLE001 - a class of somebody's own, made again from what was stored
        return "its text can't be rendered"
