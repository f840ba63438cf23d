"""The Jobs service: evaluations and optimizations on workers; and their starts, each at most once for a request id."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol
from uuid import uuid4

from snakepit_bridge.client import Fleet
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.evaluations.jobs import Job, JobKind
from snakepit_bridge.redis.lease import LeaseLostError
from snakepit_bridge.variables.codec import encode_json
from workers.gateway.access.authentication import GrantScope
from workers.gateway.api.converters import timestamp_message
from workers.gateway.api.pages import page_size
from workers.gateway.api.request_ids import RequestIds
from workers.gateway.api.targets import require_all_sessions
from workers.gateway.call import MAX_ID_LENGTH, ClientCall, require_name
from workers.gateway.json_text import to_strict_json
from workers.gateway.loading import load_in_thread

if TYPE_CHECKING:
    from snakepit_bridge.client.jobs import AsyncJobs

_KINDS: dict[int, JobKind] = {pb.JOB_KIND_EVALUATION: "evaluation", pb.JOB_KIND_OPTIMIZATION: "optimization"}

StartJob = Callable[[str, str], Awaitable[Job]]
"""Starts a job under an id, for an author."""


class StartRequest(Protocol):
    """A request to start a job."""

    author: str
    request_id: str

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...  # noqa: N802 - protobuf's name


class JobStarts:
    """Starts jobs for requests.

    Args:
        fleet: the fleet.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._ids = RequestIds(fleet.connection, fleet.namespace)

    async def start(self, request: StartRequest, call: ClientCall, start: StartJob) -> pb.Job:
        """Start a job unless the same request started it before, and return it.

        Raises:
            RequestIdConflictError: the id belongs to another request.
            BridgeError: the job can't be started.
        """
        author = call.grant.format_author(request.author)
        if not request.request_id:
            return job_message(await start(uuid4().hex, author))
        content = request.SerializeToString(deterministic=True)
        while True:
            try:
                async with self._ids.attempt(call.grant.name, request.request_id, content) as attempt:
                    if attempt.answer is not None:
                        return job_message(await (await load_jobs(self._fleet)).get(attempt.answer))
                    # An attempt that died may have started the job, which starting it again leaves as it is.
                    job_id = attempt.base or uuid4().hex
                    await attempt.record_base(job_id)
                    job = await start(job_id, author)
                    await attempt.record_answer(job_id)
                    return job_message(job)
            except LeaseLostError:
                continue  # another attempt has taken over; its answer is this one's too


class GatewayJobs:
    """The operations on jobs.

    Args:
        fleet: the fleet.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def list(self, request: pb.ListJobsRequest, call: ClientCall) -> pb.ListJobsResponse:
        """Return the newest jobs, without their progress and results."""
        require_all_sessions(call, GrantScope.READ)
        jobs = await load_jobs(self._fleet)
        found = await jobs.list(kind=_KINDS.get(request.kind), limit=page_size(request.limit))
        return pb.ListJobsResponse(jobs=[job_message(job, brief=True) for job in found])

    async def get(self, request: pb.JobRequest, call: ClientCall) -> pb.Job:
        """Return how a job stands."""
        job_id = _require_id(request, call, GrantScope.READ)
        return job_message(await (await load_jobs(self._fleet)).get(job_id))

    async def watch(self, request: pb.JobRequest, call: ClientCall) -> AsyncGenerator[pb.Job]:
        """Yield how a job stands, and each change, until it has ended."""
        job_id = _require_id(request, call, GrantScope.READ)
        async with aclosing((await load_jobs(self._fleet)).watch(job_id)) as states:
            async for job in states:
                yield job_message(job)

    async def cancel(self, request: pb.JobRequest, call: ClientCall) -> pb.Job:
        """Cancel a job, unless it has ended."""
        job_id = _require_id(request, call, GrantScope.RELEASE)
        return job_message(await (await load_jobs(self._fleet)).cancel(job_id, author=call.grant.name))


def _require_id(request: pb.JobRequest, call: ClientCall, scope: GrantScope) -> str:
    require_all_sessions(call, scope)
    return require_name(request.id, "id", MAX_ID_LENGTH)


async def load_jobs(fleet: Fleet) -> AsyncJobs:
    """Return the jobs of a fleet; they are loaded beside the event loop, since DSPy takes seconds."""
    return (await load_in_thread(lambda: fleet.jobs)).aio


def job_message(job: Job, *, brief: bool = False) -> pb.Job:
    """Return a job as a message.

    Args:
        job: the job.
        brief: whether its progress and its result are left out.
    """
    message = pb.Job(
        id=job.id,
        kind=getattr(pb, f"JOB_KIND_{job.kind.upper()}"),
        state=getattr(pb, f"JOB_STATE_{job.state.upper()}"),
        program=job.program,
        session=job.session,
        author=job.author,
        arguments_json=encode_json(to_strict_json(job.arguments)),
        created_at=timestamp_message(job.created_at),
        started_at=None if job.started_at is None else timestamp_message(job.started_at),
        progress_json=encode_json(to_strict_json(job.progress)) if job.progress and not brief else b"",
    )
    if job.end is not None:
        message.ended_at.CopyFrom(timestamp_message(job.end.at))
        message.result_json = encode_json(to_strict_json(job.end.result)) if job.end.result and not brief else b""
        if job.end.error:
            message.error.CopyFrom(pb.Error(kind=job.end.error, message=job.end.problem, fields_json=b"[]"))
    return message
