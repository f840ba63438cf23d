"""The asyncio pool: thousands of tasks at a time in one worker process, for work that is waiting and little else.

Celery takes it through its own hook for pools: ``--pool custom`` with ``CELERY_CUSTOM_WORKER_POOL`` set to
``workers.pool:AsyncioPool``, which ``dspex-fleet worker --pool asyncio`` does. Celery's tracer runs unchanged, in a
greenlet per task on the process's one event loop; where it or the task waits, the greenlet is switched out.
"""

from __future__ import annotations

from workers.pool.asyncio_pool import AsyncioPool

__all__ = ["AsyncioPool"]
