"""Route programs that execute code to workers that run each task in a process of its own.

Generated code, or user code that computes for seconds, would block an event loop or the interpreter lock for all other
tasks. A worker whose tasks share a process moves such a message to the queue's ``.code`` counterpart, which prefork
workers consume as well.
"""

from __future__ import annotations

from celery.exceptions import Ignore

from snakepit_bridge.programs.bound import BoundProgram
from snakepit_bridge.protocol.messages import code_queue
from tasks.requests import Delivery
from tasks.runtime import Runtime


def needs_code_queue(runtime: Runtime, bound: BoundProgram) -> bool:
    """Check whether a program executes code, this worker's tasks share a process, and messages can be moved."""
    return runtime.shares_process and bound.executes_code and runtime.message_leases is not None


async def move_to_code_queue(runtime: Runtime, bound: BoundProgram, delivery: Delivery) -> None:
    """Move a message to the code queue if its program executes code and this worker's tasks share a process.

    With another transport than ours messages can't be moved, and the program runs here.

    Raises:
        Ignore: the message was moved and no longer belongs to this worker.
        StoreUnavailableError: the broker is unavailable.
    """
    leases = runtime.message_leases
    if leases is None or not (needs_code_queue(runtime, bound) and delivery.claim and delivery.queue):
        return
    queue = code_queue(delivery.queue)
    await leases.move(delivery.claim, queue)
    raise Ignore(f"prediction {delivery.task_id} executes code and waits in {queue}")
