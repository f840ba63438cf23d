"""The asyncio pool: thousands of concurrent tasks in one worker process, for I/O-bound work.

Celery loads it through its own hook for custom pools: ``--pool custom`` with ``CELERY_CUSTOM_WORKER_POOL`` set to
``workers.pool:AsyncioPool``, which ``dspex-fleet worker --pool asyncio`` does. Celery's tracer runs unchanged, in a
greenlet per task on the process's one event loop; when it or the task waits, the greenlet is switched out.
"""

from __future__ import annotations

from workers.pool.asyncio_pool import AsyncioPool

__all__ = ["AsyncioPool"]
