"""The Datasets service: lists of examples, which may hold predictions of all sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from snakepit_bridge.client import Fleet
from snakepit_bridge.datasets.versions import DatasetVersion
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import DatasetError
from snakepit_bridge.variables.codec import encode_json, parse
from workers.gateway.access.authentication import GrantScope
from workers.gateway.api.converters import timestamp_message
from workers.gateway.api.pages import page_size, slice_page
from workers.gateway.api.targets import require_all_sessions
from workers.gateway.call import ClientCall, require_name, require_seconds
from workers.gateway.json_text import to_strict_json

_DEFAULT_LIMIT = 1_000


class GatewayDatasets:
    """The operations on datasets.

    Args:
        fleet: the fleet.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def list(self, request: pb.ListDatasetsRequest, call: ClientCall) -> pb.ListDatasetsResponse:
        """Return a page of datasets sorted by name, each in its newest version."""
        require_all_sessions(call, GrantScope.READ)
        size = page_size(request.page_size)
        found = [
            listing.latest
            for listing in await self._fleet.datasets.aio.list()
            if listing.latest.name.startswith(request.prefix) and listing.latest.name > request.page_token
        ]
        page = found[:size]
        next_page = page[-1].name if len(found) > size else ""
        return pb.ListDatasetsResponse(datasets=map(_version_message, page), next_page_token=next_page)

    async def get(self, request: pb.DatasetRequest, call: ClientCall) -> pb.Dataset:
        """Return what is known of a dataset."""
        require_all_sessions(call, GrantScope.READ)
        return _version_message(await self._fleet.datasets.aio.find(require_name(request.reference, "reference")))

    async def list_versions(
        self, request: pb.ListDatasetVersionsRequest, call: ClientCall
    ) -> pb.ListDatasetVersionsResponse:
        """Return every version of a dataset."""
        require_all_sessions(call, GrantScope.READ)
        name = require_name(request.name, "name")
        latest = await self._fleet.datasets.aio.find(name)  # which tells one that isn't there from one without versions
        versions = await self._fleet.datasets.aio.versions(latest.name)
        return pb.ListDatasetVersionsResponse(versions=map(_version_message, versions))

    async def list_examples(
        self, request: pb.ListDatasetExamplesRequest, call: ClientCall
    ) -> pb.ListDatasetExamplesResponse:
        """Return a page of a dataset's examples."""
        require_all_sessions(call, GrantScope.READ)
        dataset = await self._fleet.datasets.aio.get(require_name(request.reference, "reference"))
        page, next_page = slice_page(dataset.rows, request.page_size, request.page_token)
        return pb.ListDatasetExamplesResponse(
            dataset=_version_message(await self._fleet.datasets.aio.find(str(dataset))),
            examples_json=encode_json(to_strict_json(page)),
            next_page_token=next_page,
        )

    async def add(self, request: pb.AddDatasetRequest, call: ClientCall) -> pb.Dataset:
        """Store examples as the newest version of a name."""
        require_all_sessions(call, GrantScope.RELEASE)
        added = await self._fleet.datasets.aio.add(
            request.name,
            _parse_examples(request),
            inputs=list(request.inputs),
            author=call.grant.format_author(request.author),
            source=request.source,
        )
        return _version_message(await self._fleet.datasets.aio.find(str(added)))

    async def add_from_predictions(self, request: pb.AddFromPredictionsRequest, call: ClientCall) -> pb.Dataset:
        """Store recorded predictions as the newest version of a name."""
        require_all_sessions(call, GrantScope.RELEASE)
        added = await self._fleet.datasets.aio.from_predictions(
            request.program,
            request.name,
            scores=list(request.scores),
            error=request.error,
            session=request.under_session,
            token=request.under_token,
            version=request.version if request.HasField("version") else None,
            since_s=require_seconds(request.since_s, "since_s") if request.HasField("since_s") else None,
            limit=request.limit or _DEFAULT_LIMIT,
            author=call.grant.format_author(request.author),
        )
        return _version_message(await self._fleet.datasets.aio.find(str(added)))

    async def diff(self, request: pb.DiffDatasetsRequest, call: ClientCall) -> pb.DatasetDiff:
        """Return what distinguishes two datasets."""
        require_all_sessions(call, GrantScope.READ)
        names = require_name(request.before, "before"), require_name(request.after, "after")
        found = await self._fleet.datasets.aio.diff(*names)
        text = await asyncio.to_thread(lambda: encode_json(to_strict_json(found.as_dict())))
        return pb.DatasetDiff(unchanged=found.unchanged, diff_json=text)

    async def remove(self, request: pb.DatasetRequest, call: ClientCall) -> pb.ListDatasetVersionsResponse:
        """Remove a version, or all of them."""
        require_all_sessions(call, GrantScope.RELEASE)
        removed = await self._fleet.datasets.aio.remove(require_name(request.reference, "reference"))
        return pb.ListDatasetVersionsResponse(versions=map(_version_message, removed))


def _parse_examples(request: pb.AddDatasetRequest) -> Sequence[Any]:
    where = f"the examples of '{request.name[:100]}'"
    try:
        examples = parse(request.examples_json or b"[]")
    except (ValueError, RecursionError) as exc:
        raise DatasetError(where, f"they aren't JSON ({exc})") from exc
    if not isinstance(examples, list):
        raise DatasetError(where, "they are a list of objects of field to value")
    return cast("list[Any]", examples)


def _version_message(version: DatasetVersion) -> pb.Dataset:
    return pb.Dataset(
        name=version.name,
        version=version.version,
        digest=version.digest,
        inputs=version.inputs,
        examples=version.examples,
        size_bytes=version.size_bytes,
        author=version.author,
        source=version.source,
        at=timestamp_message(version.at),
    )
