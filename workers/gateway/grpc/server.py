"""The gRPC server: the operations, the health service and server reflection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from snakepit_bridge.exceptions import BridgeError, ConfigurationError
from workers.gateway.access.denied_calls import format_address
from workers.gateway.access.gate import RequestGate
from workers.gateway.errors import (
    MalformedError,
    StreamEndedError,
    grpc_code,
    log_failure,
    to_brief_message,
    trailing_metadata,
)
from workers.gateway.grpc.reflection import SymbolPool
from workers.gateway.operation import PACKAGE, Operation
from workers.gateway.request_metrics import measure_rpc
from workers.gateway.settings import GatewayLimits, GatewaySettings, Tls

Context = grpc.aio.ServicerContext[Any, Any]


class GrpcServer:
    """Serves the operations over gRPC.

    Args:
        operations: the operations.
        gate: admits calls.
        settings: the gateway's settings.

    Attributes:
        address: the ``HOST:PORT`` that it listens on.

    Raises:
        ConfigurationError: it can't listen on the address, or can't use its TLS files.
    """

    def __init__(self, operations: Iterable[Operation], gate: RequestGate, settings: GatewaySettings) -> None:
        self._gate = gate
        self._limits = settings.limits
        self._server = grpc.aio.server(
            options=_channel_options(settings.limits),
            maximum_concurrent_rpcs=settings.limits.calls + 100,
            interceptors=[_AuthenticationInterceptor(gate, operations := tuple(operations))],
        )
        self._health = HealthServicer()
        self._services = sorted({f"{PACKAGE}.{operation.service}" for operation in operations})
        self._server.add_generic_rpc_handlers(self._build_handlers(operations))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME),
            self._server,
            pool=cast("Any", SymbolPool()),
        )
        assert settings.grpc is not None
        host, _, _ = settings.grpc.rpartition(":")
        self.address = f"{host}:{_bind(self._server, settings.grpc, settings.tls)}"

    async def start(self) -> None:
        """Start accepting calls."""
        await self._server.start()
        await self.set_healthy(True)

    async def set_healthy(self, well: bool) -> None:
        """Set the status that the health service reports."""
        status = health_pb2.HealthCheckResponse.SERVING if well else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", *self._services):
            await self._health.set(service, status)

    async def stop(self, grace_s: float) -> None:
        """Stop accepting calls, and cancel those that don't finish within ``grace_s`` seconds."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)

    def _build_handlers(self, operations: Iterable[Operation]) -> list[grpc.GenericRpcHandler]:
        by_service: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}
        for operation in operations:
            # Requests are parsed after authorization, so an unauthorized one costs no more than its bytes.
            handler = (
                grpc.unary_unary_rpc_method_handler(self._unary_handler(operation), None, _serialize)
                if operation.unary
                else grpc.unary_stream_rpc_method_handler(self._streaming_handler(operation), None, None)
            )
            by_service.setdefault(operation.service, {})[operation.method] = handler
        return [
            grpc.method_handlers_generic_handler(f"{PACKAGE}.{service}", methods)
            for service, methods in by_service.items()
        ]

    def _unary_handler(self, operation: Operation) -> Callable[[bytes, Context], Awaitable[Any]]:
        async def handle(data: bytes, context: Context) -> Message:
            with measure_rpc(operation.path) as outcome:
                try:
                    grant = self._gate.authorize(_read_authorization(context.invocation_metadata()), operation)
                    request = _parse(operation, data)
                    headers = _read_trace_context(context.invocation_metadata())
                    return await self._gate.call(operation, request, grant, context.time_remaining(), headers)
                except Exception as exc:  # noqa: BLE001 - reported to the client, and logged if unexpected
                    outcome.error = exc
                    return await _abort(exc, operation, context)

        return handle

    def _streaming_handler(self, operation: Operation) -> Callable[[bytes, Context], Awaitable[None]]:
        async def handle(data: bytes, context: Context) -> None:
            with measure_rpc(operation.path) as outcome:
                try:
                    grant = self._gate.authorize(_read_authorization(context.invocation_metadata()), operation)
                    request = _parse(operation, data)
                    headers = _read_trace_context(context.invocation_metadata())
                    answers = self._gate.stream(operation, request, grant, context.time_remaining(), headers)
                    async with aclosing(answers):
                        async for answer in answers:
                            await self._write(answer, context)
                except Exception as exc:  # noqa: BLE001 - as above
                    outcome.error = exc
                    await _abort(exc, operation, context)

        return handle

    async def _write(self, answer: Message, context: Context) -> None:
        """Send a message of a stream; raise StreamEndedError if the reader doesn't accept it in time."""
        try:
            async with asyncio.timeout(self._limits.write_s):
                await context.write(_serialize(answer))
        except TimeoutError:
            raise StreamEndedError(f"its reader accepted nothing for {self._limits.write_s:g} s") from None


class _AuthenticationInterceptor(grpc.aio.ServerInterceptor):
    """Rejects unauthorized calls by their headers.

    Otherwise gRPC would wait for the whole request message of an unauthorized client, and count the call meanwhile.
    """

    def __init__(self, gate: RequestGate, operations: Iterable[Operation]) -> None:
        self._gate = gate
        self._operations = {operation.path: operation for operation in operations}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        operation = self._operations.get(handler_call_details.method)
        if operation is not None:
            try:
                self._gate.authorize(_read_authorization(handler_call_details.invocation_metadata), operation)
            except BridgeError as exc:
                return _rejecting_handler(exc, operation, self._gate)
        return await continuation(handler_call_details)


def _rejecting_handler(error: BridgeError, operation: Operation, gate: RequestGate) -> grpc.RpcMethodHandler[Any, Any]:
    async def reject(_: Any, context: Context) -> Any:
        with measure_rpc(operation.path) as outcome:
            outcome.error = error
            gate.denied.note(error, operation.name, address=format_address(context.peer()))
            await _abort(error, operation, context)

    # Only a client-streaming handler is called before a message has been received.
    return grpc.stream_unary_rpc_method_handler(reject)


def _channel_options(limits: GatewayLimits) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.max_send_message_length", limits.answer_bytes),
        ("grpc.max_concurrent_streams", limits.calls_per_connection),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.server_handshake_timeout_ms", round(limits.read_s * 1000)),
        # Detect clients that vanished, and disconnect those that ping too often.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 3),
    ]


def _bind(server: grpc.aio.Server, address: str, tls: Tls | None) -> int:
    try:
        return (
            server.add_insecure_port(address)
            if tls is None
            else server.add_secure_port(address, _load_credentials(tls))
        )
    except RuntimeError as exc:
        with_tls = "" if tls is None else f" with the certificate {tls.certificate}"
        raise ConfigurationError(f"The gateway can't serve gRPC on {address}{with_tls}: {exc}.") from exc


def _load_credentials(tls: Tls) -> grpc.ServerCredentials:
    try:
        client_ca = tls.client_ca.read_bytes() if tls.client_ca else None
        pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
    except OSError as exc:
        raise ConfigurationError(f"The gateway's TLS files can't be read: {exc}.") from exc
    return grpc.ssl_server_credentials([pair], client_ca, require_client_auth=client_ca is not None)


def _read_authorization(metadata: Any) -> str | None:
    for key, value in metadata or ():
        if key == "authorization":
            return value if isinstance(value, str) else value.decode("utf-8", "replace")
    return None


def _read_trace_context(metadata: Any) -> Mapping[str, Any]:
    return {key: value for key, value in metadata or () if key in ("traceparent", "tracestate")}


def _parse(operation: Operation, data: bytes) -> Any:
    try:
        return operation.request.FromString(data)
    except (DecodeError, RecursionError) as exc:
        raise MalformedError("message", f"it is not a {operation.request.__name__}: {exc}") from exc


async def _abort(error: Exception, operation: Operation, context: Context) -> Any:
    if isinstance(error, grpc.aio.AbortError | grpc.aio.UsageError):
        raise error
    log_failure(error, operation.path)
    await context.abort(grpc_code(error), to_brief_message(error).message, trailing_metadata(error))


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
