"""Loads what every worker loads; whatever is forked afterwards shares it. See ``tests.harness.preloaded``."""

import gc
import importlib
import os

from tests.harness.preloaded import LOADED_WITH

# All but workers.app, which reads the settings as it is loaded.
MODULES = (
    "celery.bin.celery",
    "celery.apps.worker",
    "celery.events.dispatcher",
    "celery.fixups.django",
    "celery.worker.consumer",
    "celery.worker.strategy",
    "dspy",
    "snakepit_bridge.lm.engine",
    "tasks.predict",
    "tasks.predict_batch",
    "workers.broker.connection",
    "workers.broker.consumer",
    "workers.inspection",
    "workers.lifecycle",
    "workers.pool",
    "workers.result_backend",
    "workers.task_ends",
)

os.environ.update(LOADED_WITH)
for name in MODULES:
    importlib.import_module(name)
# A look for garbage would copy every page of it into each worker.
gc.freeze()
