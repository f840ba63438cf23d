"""The gateway process: a gRPC and an HTTP server for one fleet."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from collections.abc import Callable
from contextlib import suppress

from snakepit_bridge.audit.entries import AuditSource
from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.process.aio import OutageLog, cancel_tasks, every
from snakepit_bridge.process.garbage_collection import freeze_gc
from snakepit_bridge.process.home_loop import adopt_loop, run_on_home_loop
from snakepit_bridge.process.open_files import raise_open_file_limit
from snakepit_bridge.redis.acl import Role
from snakepit_bridge.redis.acl_check import check_role
from snakepit_bridge.redis.data_format import mark_data_format
from snakepit_bridge.snapshots.replica import Replica
from snakepit_bridge.telemetry import TELEMETRY
from snakepit_bridge.telemetry.metrics import GATEWAY_CALLS
from snakepit_bridge.telemetry.setup import stop as stop_telemetry
from workers.gateway.access.denied_calls import FLUSH_INTERVAL_S, DeniedCalls
from workers.gateway.access.gate import RequestGate
from workers.gateway.api.approvals import GatewayApprovals, GatewayProtections
from workers.gateway.api.audit import GatewayAudit
from workers.gateway.api.costs import CostReports
from workers.gateway.api.datasets import GatewayDatasets
from workers.gateway.api.dead_letters import GatewayDeadLetters
from workers.gateway.api.evaluations import GatewayEvaluations, GatewayOptimizations
from workers.gateway.api.experiments import GatewayExperiments
from workers.gateway.api.flags import Flags
from workers.gateway.api.jobs import GatewayJobs
from workers.gateway.api.judges import GatewayJudges
from workers.gateway.api.prediction_search import GatewayPredictionSearch
from workers.gateway.api.predictions import Predictions
from workers.gateway.api.programs import Programs
from workers.gateway.api.recorders import GatewayRecorders
from workers.gateway.api.rollouts import GatewayRollouts
from workers.gateway.api.scores import PredictionScores
from workers.gateway.api.sessions import Sessions
from workers.gateway.api.status import GatewayStatus
from workers.gateway.api.variables import Variables
from workers.gateway.console.sign_ins import SignIns
from workers.gateway.grpc.server import GrpcServer
from workers.gateway.health import GatewayHealth
from workers.gateway.http.server import HttpServer
from workers.gateway.operations import Services, build_operations
from workers.gateway.settings import GatewaySettings
from workers.health.server import HealthServer
from workers.telemetry import read_options, start_fleet_metrics, start_telemetry

_log = logging.getLogger(__name__)

_PROBE_INTERVAL_S = 2.0


class Gateway:
    """One gateway. Create it on the event loop that it runs on.

    Args:
        settings: its settings.

    Attributes:
        grpc_address, http_address: the ``HOST:PORT`` that each server listens on; None if it is disabled.
        health: what its health endpoints answer.

    Raises:
        ConfigurationError: it can't listen on an address, or can't use its TLS files.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._fleet = Fleet(
            settings.redis_url,
            broker_url=settings.broker_url,
            namespace=settings.namespace,
            queue=settings.queue,
            timeout_s=settings.redis_timeout_s,
            allowed_packages=settings.allowed_packages,
            bridge=settings.bridge,
            bounds=settings.bounds,
            encryption=settings.encryption,
            durability=settings.durability,
            signing_keys=settings.signing_keys,
            source=AuditSource.GATEWAY,
        )
        self._replica = Replica(self._fleet.store)
        self._predictions = Predictions(self._fleet, settings.limits.batch)
        self._gate = RequestGate(settings.grants, settings.limits, DeniedCalls(self._fleet.audit_trail))
        self._recording: asyncio.Task[None] | None = None
        operations = build_operations(self._build_services(settings))
        flags = Flags(self._fleet, self._replica)
        self._grpc = GrpcServer(operations, self._gate, settings) if settings.grpc else None
        self.health = GatewayHealth(self._fleet, self._gate.draining.is_set)
        self._health_server = HealthServer(settings.health) if settings.health else None
        sign_ins = (
            SignIns(self._fleet.connection, settings.namespace, settings.grants, settings.openid)
            if settings.console
            else None
        )
        self._http = (
            HttpServer(operations, flags, self._gate, settings, self.health, sign_ins) if settings.http else None
        )
        self.grpc_address = self._grpc.address if self._grpc else None
        self.http_address = self._http.address if self._http else None

    def _build_services(self, settings: GatewaySettings) -> Services:
        fleet = self._fleet
        return Services(
            variables=Variables(fleet, self._replica, settings.limits.changes),
            sessions=Sessions(fleet),
            predictions=self._predictions,
            prediction_search=GatewayPredictionSearch(fleet),
            scores=PredictionScores(fleet, self._predictions),
            programs=Programs(fleet, settings.allowed_packages, settings.imports),
            rollouts=GatewayRollouts(fleet, self._replica),
            experiments=GatewayExperiments(fleet),
            judges=GatewayJudges(fleet),
            dead_letters=GatewayDeadLetters(fleet),
            audit=GatewayAudit(fleet),
            protections=GatewayProtections(fleet),
            approvals=GatewayApprovals(fleet),
            costs=CostReports(fleet),
            datasets=GatewayDatasets(fleet),
            recorders=GatewayRecorders(fleet),
            evaluations=GatewayEvaluations(fleet),
            optimizations=GatewayOptimizations(fleet),
            jobs=GatewayJobs(fleet),
            status=GatewayStatus(fleet),
        )

    async def ready(self) -> bool:
        """Check whether the fleet's servers answer."""
        return not any((await self.health.ask_servers()).values())

    async def run(self, stop: asyncio.Event, serving: Callable[[], None] = lambda: None) -> None:
        """Serve until ``stop`` is set, then shut down gracefully.

        Args:
            stop: set to shut down.
            serving: called once both servers accept calls.

        Raises:
            StoreForbiddenError: its user of Redis lacks rights.
        """
        await self.start()
        serving()
        probing = asyncio.create_task(
            every(_PROBE_INTERVAL_S, self._probe, OutageLog(_log, "Can't probe the gateway")),
            name="dspex-gateway-probe",
        )
        exporting = start_fleet_metrics(lambda: self._fleet)
        TELEMETRY.meter.observe(GATEWAY_CALLS, lambda: [(self._gate.in_flight, {})])
        try:
            await stop.wait()
        finally:
            await cancel_tasks(probing, exporting)
            await self.stop()

    async def start(self) -> None:
        """Start both servers.

        Raises:
            StoreForbiddenError: its user of Redis lacks rights.
        """
        settings = self._settings
        self.health.beat.start()
        if self._health_server is not None:
            self._health_server.start(self.health)
        await run_on_home_loop(check_role(Role.gateway, self._fleet.connection, settings.namespace, settings.queue))
        await run_on_home_loop(mark_data_format(self._fleet.connection.execute, settings.namespace))
        self._recording = asyncio.create_task(
            every(
                FLUSH_INTERVAL_S, self._gate.denied.flush, OutageLog(_log, "Can't record the calls that were denied")
            ),
            name="dspex-gateway-denied",
        )
        for server in filter(None, (self._grpc, self._http)):
            await server.start()
        self.health.is_serving = True
        access = "tokens" if self._settings.grants else "no tokens: every user of this machine may do everything"
        encryption = "TLS" if self._settings.tls else "plain text"
        _log.info("serving gRPC on %s, HTTP on %s; %s, %s", self.grpc_address, self.http_address, encryption, access)

    async def stop(self) -> None:
        """Stop accepting calls, end streams, and give calls in flight ``drain_s`` seconds to finish."""
        self._gate.draining.set()
        servers = filter(None, (self._grpc, self._http))
        await asyncio.gather(*(server.stop(self._settings.drain_s) for server in servers))
        await cancel_tasks(self._recording)
        with suppress(BridgeError):
            await self._gate.denied.flush(is_last=True)
        await self._replica.aclose()
        self._predictions.close()
        if self._fleet.elixir is not None:
            await run_on_home_loop(self._fleet.elixir.aclose())
        await self._fleet.store.aclose()
        await self._fleet.connection.aclose()
        self.health.beat.stop()
        if self._health_server is not None:
            self._health_server.stop()

    async def _probe(self) -> None:
        ready = False
        try:
            ready = await self.ready()
        finally:
            if self._grpc is not None:
                await self._grpc.set_healthy(ready)


def run_gateway(settings: GatewaySettings, *, announce: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: its settings.
        announce: called once, when it serves, with a line of JSON that holds the addresses.

    Raises:
        ConfigurationError: it can't listen on an address, or can't use its TLS files.
        StoreForbiddenError: its user of Redis lacks rights.
    """
    raise_open_file_limit()
    start_telemetry(read_options("gateway", settings.metric_labels))

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        # Let the fleet's client share this loop's connections instead of running a second loop.
        with suppress(RuntimeError):
            adopt_loop(loop)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        gateway = Gateway(settings)

        def serving() -> None:
            freeze_gc()
            if announce is not None:
                announce(json.dumps({"grpc": gateway.grpc_address, "http": gateway.http_address}))

        await gateway.run(stop, serving)

    try:
        asyncio.run(serve())
    finally:
        stop_telemetry()
