"""The batch endpoints of the LM server: OpenAI's files and batches, and Anthropic's message batches.

A batch is answered when it is looked at for the first time after ``delay_s``, each line by the same answerer as a call.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from snakepit_bridge.testing.lm.batch_stage import BatchStage, StagedBatch

AnswerLine = Callable[[Mapping[str, Any]], tuple[int, dict[str, Any]]]
"""Returns the status and the body of the reply to one line's request, in OpenAI's format."""


class BatchEndpoints:
    """The endpoints of one server.

    Args:
        stage: its batches.
        answer: answers a line.
        authorize: returns the refusal of a request; None for none.
    """

    def __init__(self, stage: BatchStage, answer: AnswerLine, authorize: Callable[[Request], Response | None]) -> None:
        self._stage = stage
        self._answer = answer
        self._authorize = authorize

    def routes(self) -> list[Route]:
        """Return the routes of both APIs."""
        return [
            Route("/v1/files", self._guard(self._upload), methods=["POST"]),
            Route("/v1/files/{file}/content", self._guard(self._download)),
            Route("/v1/batches", self._guard(self._create), methods=["POST"]),
            Route("/v1/batches", self._guard(self._list)),
            Route("/v1/batches/{batch}", self._guard(self._show)),
            Route("/v1/batches/{batch}/cancel", self._guard(self._cancel), methods=["POST"]),
            Route("/v1/messages/batches", self._guard(self._create_messages), methods=["POST"]),
            Route("/v1/messages/batches", self._guard(self._list_messages)),
            Route("/v1/messages/batches/{batch}", self._guard(self._show_messages)),
            Route("/v1/messages/batches/{batch}/results", self._guard(self._results)),
            Route("/v1/messages/batches/{batch}/cancel", self._guard(self._cancel), methods=["POST"]),
        ]

    def _guard(self, handle: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def guarded(request: Request) -> Response:
            return self._authorize(request) or await handle(request)

        return guarded

    # ------------------------------------------------------------------ OpenAI

    async def _upload(self, request: Request) -> Response:
        # A file is the part with a name of its own; lines of JSON have no boundary in them.
        kind, body = request.headers["content-type"], await request.body()
        boundary = b"--" + kind.partition("boundary=")[2].strip('"').encode()
        [part] = [part for part in body.split(boundary) if b"filename=" in part.partition(b"\r\n\r\n")[0]]
        file = self._stage.add_file(part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n"))
        return JSONResponse({"id": file, "object": "file", "purpose": "batch"})

    async def _download(self, request: Request) -> Response:
        content = self._stage.files.get(request.path_params["file"])
        return _missing() if content is None else Response(content, media_type="application/jsonl")

    async def _create(self, request: Request) -> Response:
        body = await request.json()
        sent = map(json.loads, self._stage.files[body["input_file_id"]].splitlines())
        lines = {line["custom_id"]: line["body"] for line in sent}
        batch = self._stage.add(lines, body["endpoint"], body.get("metadata") or {})
        return self._created(JSONResponse(self._describe(batch)))

    async def _list(self, request: Request) -> Response:
        found, more = self._page([each for each in self._stage.batches.values() if each.endpoint], request, "after")
        return JSONResponse({"data": [self._describe(each) for each in found], "has_more": more})

    async def _show(self, request: Request) -> Response:
        batch = self._look(request.path_params["batch"])
        return _missing() if batch is None else JSONResponse(self._describe(batch))

    def _describe(self, batch: StagedBatch) -> dict[str, Any]:
        counts = {"total": len(batch.lines), "completed": len(batch.replies), "failed": 0}
        found = {
            "id": batch.id, "object": "batch", "status": batch.end or "in_progress", "endpoint": batch.endpoint,
            "created_at": int(batch.created_at), "metadata": batch.metadata, "request_counts": counts,
        }  # fmt: skip
        if batch.end == "failed":
            return {**found, "errors": {"data": [{"code": "invalid_json_line", "message": "a line is no JSON"}]}}
        if batch.end is not None:
            output, errors = f"{batch.id}-output", f"{batch.id}-errors"
            self._stage.files[output] = _jsonl(_openai_line(name, *reply) for name, reply in batch.replies.items())
            left = [name for name in batch.lines if name not in batch.replies]
            self._stage.files[errors] = _jsonl(
                {"custom_id": name, "response": None, "error": {"code": f"batch_{batch.end}"}} for name in left
            )
            return {**found, "output_file_id": output, "error_file_id": errors if left else None}
        return found

    # ------------------------------------------------------------------ Anthropic

    async def _create_messages(self, request: Request) -> Response:
        body = await request.json()
        lines = {each["custom_id"]: _as_openai_request(each["params"]) for each in body["requests"]}
        batch = self._stage.add(lines, "", {})
        return self._created(JSONResponse(self._describe_messages(batch)))

    async def _list_messages(self, request: Request) -> Response:
        found, more = self._page(
            [each for each in self._stage.batches.values() if not each.endpoint], request, "after_id"
        )
        return JSONResponse({"data": [self._describe_messages(each) for each in found], "has_more": more})

    async def _show_messages(self, request: Request) -> Response:
        batch = self._look(request.path_params["batch"])
        if batch is None:
            return _missing()
        described = self._describe_messages(batch)
        if batch.end is not None:
            described["results_url"] = f"{request.base_url}v1/messages/batches/{batch.id}/results"
        return JSONResponse(described)

    def _describe_messages(self, batch: StagedBatch) -> dict[str, Any]:
        counts = {"processing": len(batch.lines) - len(batch.replies), "succeeded": len(batch.replies), "errored": 0}
        created = datetime.fromtimestamp(batch.created_at, UTC).isoformat()
        status = "in_progress" if batch.end is None else "ended"
        return {"id": batch.id, "processing_status": status, "request_counts": counts, "created_at": created}

    async def _results(self, request: Request) -> Response:
        batch = self._stage.batches[request.path_params["batch"]]
        end = {"cancelled": "canceled"}.get(batch.end or "", "expired")
        lines = [
            _anthropic_line(name, *batch.replies[name]) if name in batch.replies
            else {"custom_id": name, "result": {"type": end}}
            for name in batch.lines
        ]  # fmt: skip
        return Response(_jsonl(lines), media_type="application/x-jsonl")

    # ------------------------------------------------------------------ both

    def _created(self, reply: Response) -> Response:
        if self._stage.faults.drop_created:
            self._stage.faults.drop_created -= 1
            return JSONResponse({"error": {"message": "bad gateway"}}, 502)
        return reply

    def _look(self, name: str) -> StagedBatch | None:
        batch = self._stage.batches.get(name)
        if batch is not None and batch.end is None and time.time() >= batch.created_at + self._stage.faults.delay_s:
            self._end(batch)
        return batch

    def _end(self, batch: StagedBatch) -> None:
        if self._stage.faults.fail:
            self._stage.faults.fail -= 1
            batch.end = "failed"
            return
        names = list(batch.lines)
        batch.end = "completed"
        if self._stage.faults.expire:
            self._stage.faults.expire -= 1
            batch.end, names = "expired", names[: len(names) // 2]
        batch.replies = {name: self._answer(batch.lines[name]) for name in names}

    async def _cancel(self, request: Request) -> Response:
        batch = self._stage.batches.get(request.path_params["batch"])
        if batch is None:
            return _missing()
        batch.end = batch.end or "cancelled"
        return JSONResponse(self._describe(batch) if batch.endpoint else self._describe_messages(batch))

    @staticmethod
    def _page(batches: list[StagedBatch], request: Request, after: str) -> tuple[list[StagedBatch], bool]:
        """Return one page, the newest first, and whether there are more."""
        ordered = sorted(batches, key=lambda each: each.created_at, reverse=True)
        names, last = [each.id for each in ordered], request.query_params.get(after)
        first, size = names.index(last) + 1 if last in names else 0, int(request.query_params.get("limit", "20"))
        return ordered[first : first + size], len(ordered) > first + size


def _as_openai_request(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a request of Anthropic's in OpenAI's format, as the answerer reads it."""
    messages = [{"role": each["role"], "content": _text(each["content"])} for each in params["messages"]]
    system = [{"role": "system", "content": _text(params["system"])}] if params.get("system") else []
    return {**params, "messages": [*system, *messages]}


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _openai_line(name: str, status: int, body: dict[str, Any]) -> dict[str, Any]:
    return {"custom_id": name, "response": {"status_code": status, "body": body}, "error": None}


def _anthropic_line(name: str, status: int, body: dict[str, Any]) -> dict[str, Any]:
    if status >= 400:
        return {"custom_id": name, "result": {"type": "errored", "error": {"type": "error", "error": body["error"]}}}
    usage, text = body["usage"], body["choices"][0]["message"]["content"]
    message = {
        "id": body["id"], "type": "message", "role": "assistant", "model": body["model"], "stop_reason": "end_turn",
        "content": [{"type": "text", "text": text}],
        "usage": {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]},
    }  # fmt: skip
    return {"custom_id": name, "result": {"type": "succeeded", "message": message}}


def _jsonl(lines: Any) -> bytes:
    return "".join(f"{json.dumps(line)}\n" for line in lines).encode()


def _missing() -> Response:
    return JSONResponse({"error": {"message": "there is no such thing", "type": "not_found_error"}}, 404)
