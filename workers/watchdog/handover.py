"""What a worker hands to its watchdog, a process of its own: over a pipe, since the settings hold secrets.

Neither the command line nor the environment of a process is a place for them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from workers.watchdog.monitor import MonitorSettings


@dataclass(frozen=True, slots=True)
class Descriptors:
    """The descriptors that a watchdog inherits.

    Attributes:
        status: the memory in which the worker's processes register.
        stacks: the file to which their threads write stacks.
        signals: a pipe that gets the number of each signal that the worker receives, and is closed when it exits.
        health: the socket on which the health endpoints are served; None if they aren't.
    """

    status: int
    stacks: int
    signals: int
    health: int | None

    @property
    def inherited(self) -> tuple[int, ...]:
        """Those that there are."""
        return tuple(fd for fd in (self.status, self.stacks, self.signals, self.health) if fd is not None)


@dataclass(frozen=True, slots=True)
class BrokerAccess:
    """The worker's broker, as kombu connects to it.

    Attributes:
        url: with its password.
        transport: the transport's import path; None for the one of the URL's scheme.
        tls: options of TLS, if it is spoken.
        options: the transport's options. Sentinel is named by its URL.
        timeout_s: seconds within which a connection is made.
        holds: whether the transport is ours. Other brokers redeliver a worker's messages once it is gone, and the
            watchdog can only store an error for the prediction at fault, so that it isn't run again.
    """

    url: str = field(repr=False)
    transport: str | None
    tls: bool | dict[str, Any] | None = field(repr=False)
    options: dict[str, Any] = field(repr=False)
    timeout_s: float
    holds: bool


@dataclass(frozen=True, slots=True)
class AppAccess:
    """How another process gets the worker's app.

    Attributes:
        name: ``module:attribute`` of the app; empty if no module has it.
        settings: the fleet's settings, by name, for what needs no task of the app's own.
    """

    name: str
    settings: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Handover:
    """All that a watchdog needs.

    Attributes:
        monitor: what it watches.
        descriptors: what it inherits.
        broker_access: the worker's broker, as kombu connects to it.
        app: the worker's app.
        redis: URL of the Redis that has the fleet's data, with its password.
        broker: URL of the broker as the settings have it.
        namespace: prefix of the fleet's keys.
        redis_timeout_s: seconds that a command may take.
        stall_limit_s: seconds that an event loop with several predictions may be blocked.
        log: the form of log lines.
        log_redactions: what is masked in them.
    """

    monitor: MonitorSettings
    descriptors: Descriptors
    broker_access: BrokerAccess
    app: AppAccess
    redis: str = field(repr=False)
    broker: str = field(repr=False)
    namespace: str
    redis_timeout_s: float
    stall_limit_s: float
    log: str
    log_redactions: tuple[str, ...]

    def encode(self) -> bytes:
        """Return the form in which it is handed over.

        Raises:
            TypeError: it holds a value that JSON lacks, such as an object among the transport's options.
        """
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return what was encoded."""
        fields: dict[str, Any] = json.loads(data)
        parts: Mapping[str, Any] = {
            "monitor": MonitorSettings(**fields["monitor"]),
            "descriptors": Descriptors(**fields["descriptors"]),
            "broker_access": BrokerAccess(**fields["broker_access"]),
            "app": AppAccess(**fields["app"]),
            "log_redactions": tuple(fields["log_redactions"]),
        }
        return cls(**{**fields, **parts})
