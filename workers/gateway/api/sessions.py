"""The Sessions service: where sessions stand and who applies them, and their labels, checks and retention."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import islice, takewhile
from typing import cast

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.promotion import promote
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import LabelNotFoundError
from snakepit_bridge.rollouts.experiments import parse_experiments
from snakepit_bridge.snapshots import STORE, Head, Retention, SnapshotStore
from snakepit_bridge.snapshots.acknowledgements import ProcessAck
from snakepit_bridge.snapshots.checks import Check
from snakepit_bridge.snapshots.records import DEFAULT_REVISIONS, LATEST, Label, check_label_name
from snakepit_bridge.variables.codec import encode_json, parse
from workers.gateway.api import converters
from workers.gateway.api.control import check_control
from workers.gateway.call import ClientCall, require_name, require_seconds
from workers.gateway.errors import MalformedError
from workers.gateway.json_text import to_strict_json

_DEFAULT_PAGE_SIZE, _MAX_PAGE_SIZE = 100, 1_000
_DEFAULT_WAIT_S = 30.0


class Sessions:
    """The operations on sessions besides those on their variables.

    Args:
        fleet: the fleet.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._store: SnapshotStore = fleet.store
        self._acks = fleet.acks

    async def list(self, request: pb.ListSessionsRequest, call: ClientCall) -> pb.ListSessionsResponse:
        """Return a page of the sessions that the grant covers, sorted by name."""
        size = min(request.page_size or _DEFAULT_PAGE_SIZE, _MAX_PAGE_SIZE)
        names = await self._store.session_names()
        # By name, so that those of a page follow each other.
        first = max(bisect_left(names, request.prefix), bisect_right(names, request.page_token))
        of_prefix = takewhile(lambda name: name.startswith(request.prefix), islice(names, first, None))
        found = list(islice(filter(call.grant.covers, of_prefix), size + 1))
        page = found[:size]
        heads, acks = await asyncio.gather(self._store.heads(page), self._acks.read_all(page))
        # A name may be that of a session that is gone.
        sessions = [_session_message(name, heads[name], acks[name]) for name in page if name in heads]
        return pb.ListSessionsResponse(sessions=sessions, next_page_token=page[-1] if len(found) > size else "")

    async def get(self, request: pb.SessionRequest, call: ClientCall) -> pb.Session:
        """Return where a session stands."""
        head, acks = await asyncio.gather(self._store.head(request.session), self._acks.read_acks(request.session))
        return _session_message(request.session, head, acks)

    async def list_labels(self, request: pb.SessionRequest, call: ClientCall) -> pb.ListLabelsResponse:
        """Return a session's labels."""
        labels = await self._store.labels(request.session)
        return pb.ListLabelsResponse(labels=[_label_message(name, labels[name]) for name in sorted(labels)])

    async def set_label(self, request: pb.SetLabelRequest, call: ClientCall) -> pb.Label:
        """Point a label at a revision."""
        check_control(request.session, (), call.grant)
        expected = converters.parse_token(request.expected, "expected")
        author = call.grant.format_author(request.author)
        await self._store.label(
            request.session, request.label, request.at or LATEST,
            expected=expected, author=author, reason=request.reason,
        )  # fmt: skip
        return await self._read_label(request.session, request.label)

    async def remove_label(self, request: pb.RemoveLabelRequest, call: ClientCall) -> pb.RemoveLabelResponse:
        """Remove a label, if it is set."""
        check_control(request.session, (), call.grant)
        author = call.grant.format_author("")
        await self._store.unlabel(request.session, check_label_name(request.label), author=author)
        return pb.RemoveLabelResponse()

    async def promote(self, request: pb.PromoteRequest, call: ClientCall) -> pb.Label:
        """Point a label at a revision once every process that holds the session applies it."""
        check_control(request.session, (), call.grant)
        label, author = request.label, call.grant.format_author(request.author)
        wait_s = require_seconds(request.wait_s, "wait_s") if request.HasField("wait_s") else _DEFAULT_WAIT_S
        at, wait_s = request.at or LATEST, call.bound_wait(wait_s)
        await promote(self._store, self._acks, request.session, label, at, wait_s, author)
        return await self._read_label(request.session, label)

    async def list_checks(self, request: pb.SessionRequest, call: ClientCall) -> pb.ListChecksResponse:
        """Return a session's checks."""
        checks = await self._store.checks(request.session)
        return pb.ListChecksResponse(checks=[_check_message(name, checks[name]) for name in sorted(checks)])

    async def declare_checks(self, request: pb.DeclareChecksRequest, call: ClientCall) -> pb.ListChecksResponse:
        """Declare and remove checks, all or none of them."""
        author = call.grant.format_author("")
        await self._store.declare_checks(request.session, _parse_checks(request), author=author)
        return await self.list_checks(pb.SessionRequest(session=request.session), call)

    async def get_retention(self, request: pb.SessionRequest, call: ClientCall) -> pb.Retention:
        """Return how much of a session's history is kept."""
        return _retention_message(await self._store.retention(request.session))

    async def set_retention(self, request: pb.SetRetentionRequest, call: ClientCall) -> pb.Retention:
        """Set how much of a session's history is kept."""
        retention = _parse_retention(request)
        await self._store.retain(request.session, retention, author=call.grant.format_author(""))
        return _retention_message(retention)

    async def _read_label(self, session: str, name: str) -> pb.Label:
        """Return a label that was set just now.

        Raises:
            LabelNotFoundError: somebody removed it meanwhile.
        """
        labels = await self._store.labels(session)
        if name not in labels:
            raise LabelNotFoundError(session, name, tuple(labels))
        return _label_message(name, labels[name])


def _session_message(name: str, head: Head, acks: Sequence[ProcessAck]) -> pb.Session:
    rollout = head.rollout if head.rollout is not None and head.rollout.is_staged else None
    target = f"session:{name}"
    return pb.Session(
        name=name,
        token=str(head.token),
        authority=head.authority,
        confirmed_at=converters.timestamp_message(head.confirmed_at),
        staleness_s=0.0 if head.authority in ("", STORE) else max(0.0, head.now - head.confirmed_at),
        rollout=None if rollout is None else converters.rollout_message(target, rollout, head.now),
        experiments=[converters.experiment_message(target, each) for each in parse_experiments(head.experiments)],
        acknowledgements=[pb.Acknowledgement(process=a.process, token=str(a.token), error=a.error) for a in acks],
    )


def _label_message(name: str, label: Label) -> pb.Label:
    at = converters.timestamp_message(label.at)
    return pb.Label(name=name, token=str(label.token), at=at, author=label.author, reason=label.reason)


def _check_message(name: str, check: Check) -> pb.Check:
    if isinstance(check, str):
        return pb.Check(name=name, function=check)
    return pb.Check(name=name, schema_json=encode_json(to_strict_json(dict(check))))


def _parse_checks(request: pb.DeclareChecksRequest) -> Mapping[str, Check | None]:
    """Return the checks of a request by name; None for one that is removed.

    Raises:
        MalformedError: there are none, one isn't JSON, or two have the same name.
    """
    names = [*(check.name for check in request.checks), *request.remove]
    if not names:
        raise MalformedError("checks", "there are none to declare or to remove")
    for name in names:
        require_name(name, "checks")
    if len(set(names)) < len(names):
        raise MalformedError("checks", "each is declared or removed once")
    declared = {check.name: _parse_check(check) for check in request.checks}
    return {**declared, **dict.fromkeys(request.remove)}


def _parse_check(check: pb.Check) -> Check:
    if check.WhichOneof("rule") == "function":
        return require_name(check.function, f"check '{check.name}'")
    try:
        schema = parse(check.schema_json)
    except (ValueError, RecursionError) as exc:
        raise MalformedError(f"check '{check.name}'", f"its schema isn't JSON: {exc}") from exc
    if not isinstance(schema, dict):
        raise MalformedError(f"check '{check.name}'", "it is a JSON schema, an object, or the name of a function")
    return cast("Mapping[str, object]", schema)


def _parse_retention(request: pb.SetRetentionRequest) -> Retention | None:
    """Return the retention of a request; None for the store's default."""
    age_s = request.age_s if request.HasField("age_s") else None
    ttl_s = request.ttl_s if request.HasField("ttl_s") else None
    if not request.revisions and age_s is None and ttl_s is None:
        return None
    return Retention(request.revisions or DEFAULT_REVISIONS, age_s, ttl_s)


def _retention_message(retention: Retention | None) -> pb.Retention:
    kept = retention or Retention()
    return pb.Retention(revisions=kept.revisions, age_s=kept.age_s, ttl_s=kept.ttl_s, is_default=retention is None)
