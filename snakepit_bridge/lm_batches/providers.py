"""The batch APIs of providers: OpenAI's (a file of lines, and a batch of it) and Anthropic's message batches."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from snakepit_bridge.lm_batches.records import BatchReply, LMBatch, WaitingRequest

if TYPE_CHECKING:
    import httpx

_CLOCK_SKEW_S = 300.0
_PAGE = 100
_MAX_PAGES = 50


class BatchProviderError(Exception):
    """A provider's batch API refused a request, or couldn't be reached.

    Attributes:
        is_permanent: whether another try fails too.
    """

    def __init__(self, problem: str, *, is_permanent: bool = False) -> None:
        super().__init__(problem)
        self.is_permanent = is_permanent


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """What a provider says of a batch.

    Attributes:
        status: in its own words.
        is_over: whether nothing more will come.
        answered: requests that it has answered so far.
        problem: why it failed as a whole; empty if it didn't.
        outputs: where the replies are.
    """

    status: str
    is_over: bool
    answered: int = 0
    problem: str = ""
    outputs: tuple[str, ...] = ()


class BatchProvider(Protocol):
    """A provider's batch API."""

    max_requests: int
    max_bytes: int

    async def upload(self, batch: LMBatch, requests: Sequence[WaitingRequest]) -> LMBatch:
        """Send what a batch is created of ahead of it, if the provider wants that; creates no batch."""
        ...

    async def create(self, batch: LMBatch, requests: Sequence[WaitingRequest]) -> str:
        """Create a batch, and return the provider's id of it."""
        ...

    async def find(self, batch: LMBatch, known: frozenset[str]) -> str:
        """Return the provider's id of a batch that may have been created; empty if it wasn't.

        Args:
            batch: the batch.
            known: the provider's ids of other batches.
        """
        ...

    async def check(self, batch: LMBatch) -> BatchStatus:
        """Return how far a batch is."""
        ...

    def replies(self, batch: LMBatch, status: BatchStatus) -> AsyncIterator[BatchReply]:
        """Yield the replies of a batch that is over; requests without one weren't processed."""
        ...

    async def cancel(self, batch: LMBatch) -> None:
        """Have a batch cancelled; it is over once it says so."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


class _Api:
    """HTTP requests to one provider."""

    def __init__(self, base_url: str, headers: Mapping[str, str], timeout_s: float) -> None:
        self.timeout_s = timeout_s
        # Loaded here: it takes 4 MB, and most workers never meet a batch.
        import httpx

        self._errors = httpx.HTTPError
        kept = {name: value for name, value in headers.items() if name.lower() != "content-type"}
        self._client = httpx.AsyncClient(base_url=f"{base_url}/", headers=kept, timeout=timeout_s)

    async def call(self, method: str, path: str, **options: Any) -> Any:
        """Return the JSON of a reply.

        Raises:
            BatchProviderError: the provider refused the request, or can't be reached.
        """
        try:
            reply = await self._client.request(method, path.lstrip("/"), **options)
        except self._errors as exc:
            raise BatchProviderError(f"{type(exc).__name__}: {exc}") from exc
        _check_reply(reply)
        try:
            return reply.json()
        except ValueError as exc:
            raise BatchProviderError(f"its reply isn't JSON: {exc}") from exc

    @asynccontextmanager
    async def lines(self, path: str) -> AsyncGenerator[AsyncIterator[str]]:
        """Yield the lines of a file.

        Raises:
            BatchProviderError: it can't be read.
        """
        try:
            async with self._client.stream("GET", path) as reply:
                if reply.status_code >= 400:
                    await reply.aread()
                _check_reply(reply)
                yield reply.aiter_lines()
        except self._errors as exc:
            raise BatchProviderError(f"{type(exc).__name__}: {exc}") from exc

    async def aclose(self) -> None:
        await self._client.aclose()


def _check_reply(reply: httpx.Response) -> None:
    if reply.status_code >= 400:
        is_permanent = reply.status_code < 500 and reply.status_code not in (408, 409, 425, 429)
        raise BatchProviderError(f"HTTP {reply.status_code}: {reply.text[:500]}", is_permanent=is_permanent)


class OpenAIBatches:
    """OpenAI's batch API, and those that speak it: a file of lines, and a batch that names it.

    A batch is found again by its metadata, so that it isn't created twice if the reply to its creation was lost.

    Args:
        base_url: of the API, such as ``https://api.openai.com/v1``.
        headers: of its requests, with the key.
        timeout_s: seconds that one request may take.
    """

    max_requests = 50_000
    max_bytes = 200_000_000

    def __init__(self, base_url: str, headers: Mapping[str, str], timeout_s: float) -> None:
        self._api = _Api(base_url, headers, timeout_s)

    async def upload(self, batch: LMBatch, requests: Sequence[WaitingRequest]) -> LMBatch:
        """Upload the file of requests; an earlier one that nobody knows of any more costs nothing."""
        if batch.file_id:
            return batch
        lines = [
            {"custom_id": each.id, "method": "POST", "url": f"/v1{each.path}", "body": each.body} for each in requests
        ]
        content = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines).encode()
        file = {"file": (f"{batch.id}.jsonl", content, "application/jsonl")}
        found = await self._api.call("POST", "files", files=file, data={"purpose": "batch"})
        return replace(batch, file_id=_text(found, "id"))

    async def create(self, batch: LMBatch, requests: Sequence[WaitingRequest]) -> str:
        """Create the batch of the file."""
        settings = {
            "input_file_id": batch.file_id,
            "endpoint": f"/v1{requests[0].path}",
            "completion_window": "24h",
            "metadata": {"dspex_batch": batch.id},
        }
        headers = {"Idempotency-Key": batch.id}
        return _text(await self._api.call("POST", "batches", json=settings, headers=headers), "id")

    async def find(self, batch: LMBatch, known: frozenset[str]) -> str:
        """Return the provider's id of a batch by its metadata; empty if there is none."""
        after: dict[str, Any] = {}
        for _ in range(_MAX_PAGES):
            page = await self._api.call("GET", "batches", params={"limit": _PAGE, **after})
            listed: list[dict[str, Any]] = page.get("data") or []
            for each in listed:
                if (each.get("metadata") or {}).get("dspex_batch") == batch.id:
                    return _text(each, "id")
            oldest = min((float(each.get("created_at") or 0) for each in listed), default=0.0)
            if not page.get("has_more") or not listed or oldest < batch.created_at - _CLOCK_SKEW_S:
                return ""
            after = {"after": listed[-1]["id"]}
        return ""

    async def check(self, batch: LMBatch) -> BatchStatus:
        """Return how far the batch is."""
        found = await self._api.call("GET", f"batches/{batch.provider_id}")
        status, counts = _text(found, "status"), found.get("request_counts") or {}
        errors = (found.get("errors") or {}).get("data") or []
        problem = "; ".join(str(each.get("message") or each.get("code")) for each in errors[:3])
        files = tuple(found[name] for name in ("output_file_id", "error_file_id") if found.get(name))
        return BatchStatus(
            status,
            status in ("completed", "failed", "expired", "cancelled"),
            int(counts.get("completed") or 0) + int(counts.get("failed") or 0),
            (problem or "the provider rejected it") if status == "failed" else "",
            files,
        )

    async def replies(self, batch: LMBatch, status: BatchStatus) -> AsyncIterator[BatchReply]:
        """Yield the lines of the output file and the error file."""
        for file in status.outputs:
            async with self._api.lines(f"files/{file}/content") as lines:
                async for line in lines:
                    if line.strip():
                        yield _parse_openai_line(line)

    async def cancel(self, batch: LMBatch) -> None:
        """Have the batch cancelled."""
        await self._api.call("POST", f"batches/{batch.provider_id}/cancel")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._api.aclose()


def _parse_openai_line(line: str) -> BatchReply:
    found: dict[str, Any] = json.loads(line)
    reply, error = found.get("response"), found.get("error")
    if reply is None or (error and error.get("code") in ("batch_expired", "batch_cancelled")):
        return BatchReply(_text(found, "custom_id"), 0, json.dumps(error or {}))
    return BatchReply(_text(found, "custom_id"), int(reply["status_code"]), json.dumps(reply.get("body")))


class AnthropicBatches:
    """Anthropic's message batches.

    They have no metadata. So a batch whose creation may have been lost is looked for among those that were created
    since, with as many requests; its own requests' ids tell whether it is the one.

    Args:
        base_url: of the API, such as ``https://api.anthropic.com/v1``.
        headers: of its requests, with the key.
        timeout_s: seconds that one request may take.
    """

    max_requests = 100_000
    max_bytes = 250_000_000

    def __init__(self, base_url: str, headers: Mapping[str, str], timeout_s: float) -> None:
        self._api = _Api(base_url, headers, timeout_s)

    async def upload(self, batch: LMBatch, requests: Sequence[WaitingRequest]) -> LMBatch:
        """Do nothing: the requests are sent with the batch."""
        return batch

    async def create(self, batch: LMBatch, requests: Sequence[WaitingRequest]) -> str:
        """Create the batch."""
        parts = [{"custom_id": each.id, "params": each.body} for each in requests]
        headers = {"Idempotency-Key": batch.id}
        return _text(await self._api.call("POST", "messages/batches", json={"requests": parts}, headers=headers), "id")

    async def find(self, batch: LMBatch, known: frozenset[str]) -> str:
        """Return the provider's id of what may be the batch; empty if nothing can be."""
        after: dict[str, Any] = {}
        for _ in range(_MAX_PAGES):
            page = await self._api.call("GET", "messages/batches", params={"limit": _PAGE, **after})
            listed: list[dict[str, Any]] = page.get("data") or []
            for each in listed:
                created = datetime.fromisoformat(_text(each, "created_at")).timestamp()
                count = sum(int(number) for number in (each.get("request_counts") or {}).values())
                latest = batch.sent_at + self._api.timeout_s + _CLOCK_SKEW_S
                is_its_time = batch.sent_at - _CLOCK_SKEW_S <= created <= latest
                if each["id"] not in known and is_its_time and count == batch.requests:
                    return _text(each, "id")
                if created < batch.sent_at - _CLOCK_SKEW_S:
                    return ""
            if not page.get("has_more") or not listed:
                return ""
            after = {"after_id": listed[-1]["id"]}
        return ""

    async def check(self, batch: LMBatch) -> BatchStatus:
        """Return how far the batch is."""
        found = await self._api.call("GET", f"messages/batches/{batch.provider_id}")
        status, counts = _text(found, "processing_status"), found.get("request_counts") or {}
        answered = int(counts.get("succeeded") or 0) + int(counts.get("errored") or 0)
        outputs = (found["results_url"],) if found.get("results_url") else ()
        return BatchStatus(status, status == "ended", answered, "", outputs)

    async def replies(self, batch: LMBatch, status: BatchStatus) -> AsyncIterator[BatchReply]:
        """Yield the lines of the results."""
        for url in status.outputs:
            async with self._api.lines(url) as lines:
                async for line in lines:
                    if line.strip():
                        yield _parse_anthropic_line(line)

    async def cancel(self, batch: LMBatch) -> None:
        """Have the batch cancelled."""
        await self._api.call("POST", f"messages/batches/{batch.provider_id}/cancel")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._api.aclose()


_ANTHROPIC_STATUS = {
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "overloaded_error": 529,
}


def _parse_anthropic_line(line: str) -> BatchReply:
    found: dict[str, Any] = json.loads(line)
    result: dict[str, Any] = found["result"]
    if result["type"] == "succeeded":
        return BatchReply(_text(found, "custom_id"), 200, json.dumps(result["message"]))
    if result["type"] != "errored":
        return BatchReply(_text(found, "custom_id"), 0, json.dumps({"type": result["type"]}))
    error: dict[str, Any] = result.get("error") or {}
    envelope: dict[str, Any] = error if "error" in error else {"type": "error", "error": error}
    status = _ANTHROPIC_STATUS.get(str(envelope["error"].get("type")), 400)
    return BatchReply(_text(found, "custom_id"), status, json.dumps(envelope))


def _text(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str) or not value:
        raise BatchProviderError(f"its reply has no '{name}'")
    return value


def open_provider(dialect: str, base_url: str, headers: Mapping[str, str], timeout_s: float) -> BatchProvider:
    """Return the batch API of a dialect, as ``LMEngine.dialect`` names it."""
    kind = AnthropicBatches if dialect == "anthropic" else OpenAIBatches
    return kind(base_url, headers, timeout_s)
