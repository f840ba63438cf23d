"""Programs that execute code go to workers that run each task in a process of its own.

Generated code, or a user's own that computes for seconds, would hold up all the others on an event loop or behind one
interpreter lock. A worker whose tasks share a process hands such a message on, to the queue's twin with ``.code``
behind its name, which workers on prefork take from as well.
"""

from __future__ import annotations

from celery.exceptions import Ignore

from snakepit_bridge.programs.bound import BoundProgram
from snakepit_bridge.protocol.messages import code_queue
from tasks.prediction import Delivery
from tasks.runtime import Runtime


async def move_to_code_queue(runtime: Runtime, bound: BoundProgram, delivery: Delivery) -> None:
    """Hands a message on if its program executes code and this worker's tasks share a process.

    Where the broker is reached by another transport than ours, nothing can be handed on, and the program runs here.

    Raises:
        Ignore: it is in other hands, and this worker does nothing more about it.
        StoreUnavailableError: the broker is away.
    """
    if not (runtime.shares_process and bound.executes_code and runtime.claims and delivery.claim and delivery.queue):
        return
    queue = code_queue(delivery.queue)
    await runtime.claims.move(delivery.claim, queue)
    raise Ignore(f"prediction {delivery.task_id} executes code and waits in {queue}")
