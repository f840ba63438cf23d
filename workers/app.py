"""The fleet's Celery app: ``celery -A workers.app worker`` runs it. Importing it connects to nothing."""

from __future__ import annotations

from celery import Celery
from kombu.transport import TRANSPORT_ALIASES

from config.celery import celery_config
from config.settings import FleetSettings
from snakepit_bridge.client.broker import celery_url
from tasks.runtime import Runtime
from workers.lifecycle import RuntimeSlot

_REDIS = ("redis://", "rediss://")
_SOCKET = "redis+socket://"

# A URL with a + names its transport itself, and kombu listens to that alone.
TRANSPORT_ALIASES["dspex"] = _TRANSPORT = "workers.transport:Transport"


class FleetApp(Celery):
    """Celery with the runtime that the fleet's tasks run on."""

    def __init__(self, settings: FleetSettings) -> None:
        super().__init__("dspex-fleet")
        self.settings = settings
        self._slot = RuntimeSlot(settings)
        self.conf.update(celery_config(settings))
        broker = celery_url(settings.broker)
        if broker.startswith(_REDIS):
            self.conf.broker_transport = _TRANSPORT
        elif broker.startswith(_SOCKET):
            broker = broker.replace("redis+", "dspex+", 1)
        self.conf.update(broker_url=broker, result_backend=celery_url(settings.redis))
        self.loader.override_backends = dict.fromkeys(("redis", "rediss"), "workers.backend:CommitBackend")
        self.conf.imports = ("tasks.predict",)

    @property
    def runtime(self) -> Runtime:
        """This process's runtime, built on first use."""
        return self._slot.get()


# Every field has a default, which pydantic's declared signature doesn't show.
app = FleetApp(FleetSettings.model_validate({}))
