"""Check the signatures of messages before a worker runs anything of them.

What isn't signed by the fleet goes to the dead-letter list under the reason ``forged``, and no prediction ends by it:
its headers, which name predictions, are anybody's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from snakepit_bridge.delivery.dead_letters import FORGED
from snakepit_bridge.protocol.signatures import MessageSigner
from snakepit_bridge.telemetry import TELEMETRY
from snakepit_bridge.telemetry.metrics import MESSAGES_FORGED
from workers.rabbitmq_dead_letters import mark_rejected

logger = logging.getLogger(__name__)

Handler = Callable[[Any], Any]


def check_signatures(handle: Handler, signer: MessageSigner | None) -> Handler:
    """Return a message handler that is called for signed messages alone; the given one if there are no keys.

    Args:
        handle: handles a message of kombu's.
        signer: knows the signing keys.
    """
    if signer is None:
        return handle

    def check_and_handle(message: Any) -> Any:
        body = message.body
        data = body.encode() if isinstance(body, str) else bytes(body or b"")
        problem = signer.find_problem(message.headers or {}, data)
        if problem is None:
            return handle(message)
        place = str((message.delivery_info or {}).get("routing_key") or "")
        logger.error("Refused a message in %r, moved to the dead-letter list: %s", place, problem)
        TELEMETRY.meter.add(MESSAGES_FORGED, 1)
        mark_rejected(message, FORGED, problem)
        return message.reject()

    return check_and_handle
