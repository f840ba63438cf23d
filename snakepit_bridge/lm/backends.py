"""The two LM backends of an engine: DSPy's native client (lm15) with our pool size, and litellm."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Protocol, cast

from dspy.lm15 import (
    AsyncLMRouter,
    LM15Error,
    Message,
    ProviderError,
    Request,
    Resolution,
    Response,
    RouterConfig,
    Usage,
    registered_providers,
    response_to_events,
)

from snakepit_bridge.lm.compat import (
    AsyncLiteLLMEngine,
    HttpResponse,
    build_wire_request,
    parse_response,
    post_embeddings,
    read_access,
    to_provider_error,
    validate_request,
)
from snakepit_bridge.lm.endpoint import Endpoint
from snakepit_bridge.lm.failures import find_failure_in_text, find_refusal, malformed_reply_error, sanitize_usage
from snakepit_bridge.lm.transport import (
    RequestProgress,
    UnstreamedReply,
    build_transport,
    request_build_error,
    request_progress,
)
from snakepit_bridge.process.open_files import OPEN_FILES


class LMBackend(Protocol):
    """Sends a request to a provider once."""

    async def complete(self, request: Request) -> Response:
        """Return the response; raise ``lm15`` errors."""
        ...

    def stream(self, request: Request) -> AsyncIterator[Any]:
        """Yield the events of the response; raise ``lm15`` errors."""
        ...

    async def warm(self) -> None:
        """Build what the first request would have to wait for."""
        ...

    async def aclose(self) -> None:
        """Close its connections."""
        ...


class Lm15Backend:
    """DSPy's native client for one model on one event loop.

    DSPy's own engine resolves the provider for each request, in a thread since that may read credentials; this backend
    resolves it once.
    """

    def __init__(self, endpoint: Endpoint, resolution: Resolution) -> None:
        provider = resolution.provider
        self._model = resolution.model
        self._name = f"{provider}:{resolution.model}"
        self._transport = build_transport(endpoint)
        config = RouterConfig(
            api_keys=None if endpoint.api_key is None else {provider: endpoint.api_key.get_secret_value()},
            base_urls=None if endpoint.api_base is None else {provider: endpoint.api_base},
            transport=self._transport,
            providers=tuple(each.definition for each in registered_providers()),
        )
        self._router = AsyncLMRouter(config)
        OPEN_FILES.register_idle(self)
        self._client: Any = None

    async def complete(self, request: Request) -> Response:
        """Return the response; raise ``lm15`` errors."""
        validate_request(request)
        client = self._client or await self._load_client()
        routed = replace(request, model=self._model)
        with _translate_reply_errors() as progress:
            try:
                return _check_response(await client.complete(routed))
            except (ValueError, TypeError):
                salvaged = _drop_invalid_usage(progress.body)
                if salvaged is None:
                    raise
                return _parse_reply(client, routed, HttpResponse(progress.status or 200, "", [], salvaged))

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        """Yield the events of the response; raise ``lm15`` errors."""
        validate_request(request)
        client = self._client or await self._load_client()
        routed = replace(request, model=self._model)
        try:
            with _translate_reply_errors():
                async for event in client.stream(routed):
                    yield event
            return
        except UnstreamedReply as exc:
            reply = exc.reply
        for event in response_to_events(_parse_unstreamed_reply(client, routed, reply)):
            yield event

    async def embed(self, texts: Sequence[str]) -> Response:
        """Return the vectors of texts, as JSON in the text of a response; raise ``lm15`` errors."""
        client = self._client or await self._load_client()
        with _translate_reply_errors():
            payload = await post_embeddings(client, self._model, texts)
            found = sorted(payload["data"], key=lambda each: each["index"])
            vectors = [[float(number) for number in each["embedding"]] for each in found]
            if len(vectors) != len(texts):
                raise malformed_reply_error(f"{len(vectors)} vectors for {len(texts)} texts", 200)
        tokens = sanitize_usage(payload).get("usage", {}).get("prompt_tokens")
        return Response(
            id=None,
            model=str(payload.get("model", self._model)),
            message=Message.assistant(json.dumps(vectors)),
            finish_reason="stop",
            usage=Usage(input_tokens=tokens, output_tokens=None if tokens is None else 0),
        )

    async def build_wire_request(self, request: Request) -> tuple[str, bytes]:
        """Return the path and the body of the HTTP request that a call would send; raise ``lm15`` errors."""
        validate_request(request)
        client = self._client or await self._load_client()
        with _translate_reply_errors():
            return build_wire_request(client, replace(request, model=self._model))

    async def parse_reply(self, request: Request, status: int, body: str) -> Response:
        """Return the response of a reply that came another way than by a call; raise ``lm15`` errors."""
        client = self._client or await self._load_client()
        if status >= 400:
            raise to_provider_error(client, status, body)
        failure = find_failure_in_text(body.encode())
        if failure is not None:
            raise failure
        with _translate_reply_errors() as progress:
            progress.status = status
            encoded = _drop_invalid_usage(body.encode()) or body.encode()
            return _parse_reply(client, replace(request, model=self._model), HttpResponse(status, "", [], encoded))

    async def read_access(self) -> tuple[str, dict[str, str]]:
        """Return the base URL and the headers of its requests, with the key in clear text: for a client alone."""
        return read_access(self._client or await self._load_client(), self._model)

    async def warm(self) -> None:
        """Build the client that the first request would have to wait for; raise ``lm15`` errors."""
        if self._client is None:
            await self._load_client()

    async def aclose(self) -> None:
        """Close its connections."""
        await self._transport.aclose()

    def close_idle(self) -> None:
        """Close the connections that no request uses."""
        self._transport.close_idle()

    async def _load_client(self) -> Any:
        self._client = await asyncio.to_thread(self._router.lm, self._name)
        return self._client


@contextmanager
def _translate_reply_errors() -> Generator[RequestProgress]:
    """Translate errors of the block: a request that can't be built, or a reply that can't be parsed.

    Raises:
        lm15.LM15Error: a builder or a parser raised anything else.
    """
    progress = RequestProgress()
    token = request_progress.set(progress)
    try:
        yield progress
    except (LM15Error, UnstreamedReply) as exc:
        if type(exc) is ProviderError and progress.status is not None and progress.status < 400:
            raise malformed_reply_error(exc, progress.status) from exc
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as exc:
        if progress.status is None:
            raise request_build_error(f"{type(exc).__name__}: {exc}") from exc
        raise malformed_reply_error(f"{type(exc).__name__}: {exc}", progress.status) from exc
    finally:
        with suppress(ValueError):  # a stream may be closed in another context than it was opened in
            request_progress.reset(token)


def _parse_unstreamed_reply(client: Any, request: Request, reply: Any) -> Response:
    """Return the response of a reply that isn't a stream although one was requested.

    Raises:
        lm15.LM15Error: the reply is an error or isn't a response.
    """
    failure = find_failure_in_text(reply.body)
    if failure is not None:
        raise failure
    with _translate_reply_errors() as progress:
        progress.status = reply.status
        return _parse_reply(client, request, replace(reply, body=_drop_invalid_usage(reply.body) or reply.body))


def _parse_reply(client: Any, request: Request, reply: HttpResponse) -> Response:
    response = _check_response(parse_response(client, request, reply))
    refusal = find_refusal(response)
    if refusal is not None:
        raise refusal
    return response


def _check_response(response: Response) -> Response:
    """Return the response if its body looks like one; DSPy parses any JSON object as an empty answer.

    Raises:
        lm15.LM15Error: the body is some other JSON object.
    """
    payload = response.provider_data
    if isinstance(payload, Mapping) and not payload.keys() & _RESPONSE_KEYS:
        raise malformed_reply_error(
            f"a JSON object with {', '.join(map(repr, list(payload)[:5])) or 'nothing in it'}", 200
        )
    return response


_RESPONSE_KEYS = frozenset({"choices", "output", "candidates", "content", "promptFeedback", "results"})


def _drop_invalid_usage(body: bytes) -> bytes | None:
    """Return a body without token counts that no parser accepts; None if all of them are valid."""
    try:
        payload: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    sane = sanitize_usage(payload)
    return None if sane == payload else json.dumps(sane).encode()


class LiteLLMBackend:
    """litellm, for endpoints and requests that the native client doesn't support. It keeps its own HTTP clients."""

    def __init__(self, endpoint: Endpoint, messages: list[Any] | None = None) -> None:
        self._endpoint = endpoint
        self._messages = messages
        self._engine: AsyncLiteLLMEngine | None = None

    def with_messages(self, messages: list[Any]) -> LiteLLMBackend:
        """Return a backend that sends these messages unchanged instead of those of the request."""
        return LiteLLMBackend(self._endpoint, messages)

    async def complete(self, request: Request) -> Response:
        """Return the response; raise ``lm15`` errors."""
        engine = await self._load_engine()
        with _translate_litellm_errors():
            return await engine.complete(request)

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        """Yield the events of the response; raise ``lm15`` errors."""
        engine = await self._load_engine()
        with _translate_litellm_errors():
            async for event in engine.stream(request):
                yield event

    async def warm(self) -> None:
        """Import litellm, which takes seconds."""
        await self._load_engine()

    async def aclose(self) -> None:
        """Do nothing: litellm's clients are shared by the whole process."""

    async def _load_engine(self) -> AsyncLiteLLMEngine:
        if self._engine is None:
            # The import takes seconds and would block every other prediction of the process.
            await asyncio.to_thread(importlib.import_module, "litellm")
            self._engine = _RawMessagesEngine(model_type=self._endpoint.model_type, **self._endpoint.client_settings())
            self._engine.messages = self._messages
        return self._engine


class _RawMessagesEngine(AsyncLiteLLMEngine):
    """DSPy's litellm engine, which can send given messages instead of the request's."""

    messages: list[Any] | None = None

    def _arguments(self, request: Request, *, streaming: bool = False) -> dict[str, Any]:
        data = cast("dict[str, Any]", super()._arguments(request, streaming=streaming))
        if self.messages is None:
            return data
        # DSPy sends such messages without n, for a single completion.
        data.pop("n", None)
        return {**data, "messages": self.messages}


@contextmanager
def _translate_litellm_errors() -> Generator[None]:
    """Raise a build error for requests that litellm couldn't build: it reports them as failed connections."""
    try:
        yield
    except LM15Error as exc:
        if any(
            isinstance(cause, UnicodeEncodeError) or type(cause).__name__ in _BUILD_ERRORS
            for cause in _iter_causes(exc)
        ):
            raise request_build_error("a header or the URL holds what HTTP can't carry") from exc
        raise


# Of httpx and h11, by name: neither is installed where litellm isn't.
_BUILD_ERRORS = frozenset({"LocalProtocolError", "InvalidURL", "UnsupportedProtocol"})


def _iter_causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        cause = left.pop()
        if cause is not None and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            left += [cause.__cause__, cause.__context__]
