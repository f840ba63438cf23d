"""The LM of an evaluation, which workers know: their profiles say what is behind a name."""

from __future__ import annotations

import asyncio

from snakepit_bridge.client.prediction_client import PredictionClient
from snakepit_bridge.protocol.messages import DESCRIBE_LM


async def describe_lm(client: PredictionClient, reference: str, session: str, token: str, wait_s: float) -> str:
    """Return the digest of the LM that a program calls under a revision, as a worker has it.

    Args:
        client: by which a worker is asked.
        reference: of the program.
        session, token: whose variables it is bound to, and their revision; empty if it was never published.
        wait_s: seconds to wait for a worker.

    Raises:
        BridgeError: the program can't be bound to the revision.
        PredictionTimeoutError: no worker answers.
        StoreUnavailableError: Redis is away.
    """
    # In a thread: sending blocks.
    task_id = await asyncio.to_thread(client.send_task, DESCRIBE_LM, [reference, session, token])
    described = await client.results.wait(task_id, wait_s, client.results.reply_channel)
    return str(described.outputs["digest"])
