"""Loads what every worker loads; whatever is forked afterwards shares it. See ``tests.harness.preloaded``."""

import gc
import importlib
import os

from tests.harness.preloaded import LOADED_WITH

# All but workers.app, which reads the settings as it is loaded.
MODULES = (
    "billiard.heap",
    "billiard.popen_fork",
    "billiard.sharedctypes",
    "billiard.synchronize",
    "celery.app.control",
    "celery.app.events",
    "celery.app.log",
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.concurrency.thread",
    "celery.events.dispatcher",
    "celery.fixups.django",
    "celery.worker.autoscale",
    "celery.worker.components",
    "celery.worker.consumer",
    "celery.worker.consumer.delayed_delivery",
    "celery.worker.strategy",
    "dspy",
    "dspy._vendor.lm15.cloud",
    "kombu.matcher",
    "kombu.pidbox",
    "snakepit_bridge.dspy_integration.own_lms",
    "snakepit_bridge.lm.blocking",
    "snakepit_bridge.lm.engine",
    "snakepit_bridge.lm_batches.lua",
    "tasks.jobs",
    "tasks.language_models",
    "tasks.predict",
    "tasks.predict_batch",
    "workers.broker.connection",
    "workers.broker.consumer",
    "workers.broker.request",
    "workers.fleet_app",
    "workers.inspection",
    "workers.lifecycle",
    "workers.logs.setup",
    "workers.pool",
    "workers.result_backend",
    "workers.task_ends",
    "workers.task_guard",
)

os.environ.update(LOADED_WITH)
for name in MODULES:
    importlib.import_module(name)
# A look for garbage would copy every page of it into each worker.
gc.freeze()
