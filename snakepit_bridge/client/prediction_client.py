"""PredictionClient: enqueue predictions, await and repeat them, and make them part of canvases and DSPy programs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast, overload
from uuid import uuid4

from celery.canvas import Signature

from snakepit_bridge.client.canvas import build_signature
from snakepit_bridge.client.handle import Handle
from snakepit_bridge.client.mapping import ErrorMode, map_inputs, track_progress
from snakepit_bridge.client.options import SubmitOptions, prepare_inputs
from snakepit_bridge.client.publisher import SentRequest
from snakepit_bridge.client.replay import Replay, fetch_with_inputs, repeat
from snakepit_bridge.client.resources import FleetResources
from snakepit_bridge.client.result_collector import forget_results
from snakepit_bridge.client.session_check import check_published
from snakepit_bridge.exceptions import BridgeError, InputError, PredictionNotReplayableError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.protocol.messages import (
    DEFAULT_PRIORITY,
    DEFAULT_SESSION,
    HIDDEN,
    MOST_URGENT,
    REPLY_CHANNEL,
    SENT_AT,
    PredictionRequest,
    Result,
    is_result,
)
from snakepit_bridge.protocol.targeting import Attributes
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.key_names import IdempotencyKey
from snakepit_bridge.releases.scores import DEFAULT_SCORER, Score, ScoreValue
from snakepit_bridge.snapshots.freshness import OutagePolicy

if TYPE_CHECKING:
    from snakepit_bridge.client.fleet_prediction import FleetPrediction
    from snakepit_bridge.client.fleet_program import FleetProgram


class PredictionClient(FleetResources):
    """The part of :class:`Fleet` that sends predictions and looks after them."""

    def submit(
        self,
        program: str,
        inputs: Mapping[str, Any],
        *,
        session: str = DEFAULT_SESSION,
        at_least: Token | str | None = None,
        exactly: Token | str | None = None,
        max_staleness: float | None = None,
        outage: str | OutagePolicy | None = None,
        priority: int = DEFAULT_PRIORITY,
        deadline: float | None = None,
        idempotency_key: IdempotencyKey | None = None,
        stream: bool = False,
        key: str | None = None,
        attributes: Attributes | None = None,
        trace: bool = False,
    ) -> Handle:
        """Enqueue one prediction and return its handle at once.

        Args:
            program: ``qa``, ``qa@prod`` (a label), ``qa:3`` (a version) or what :meth:`Fleet.store_variant` returned.
            inputs: input field to its value: a JSON value, or what can become one and be read back, such as a pydantic
                model, a ``dspy.Image``, a date, a set or an enum.
            session: whose variables it runs under.
            at_least: a token that the session must have reached, such as what your own publish returned.
            exactly: the one token to run under.
            max_staleness: seconds since the session's authority last agreed with its variables, at most.
            outage: what becomes of it when the store or the authority is away: ``fail`` or ``serve_stale(SECONDS)``;
                what the workers' ``DSPEX_OUTAGE`` says if None.
            priority: 0 to 9, the most urgent.
            deadline: seconds from now after which the answer is worth nothing.
            idempotency_key: the same key with the same request is one prediction, however often it is submitted.
            stream: whether ``handle.stream()`` can follow the answer while the LM writes it.
            key: what rollouts and experiments assign it by, such as a user's id: the same key gets the same arm.
                Without one each prediction is assigned by itself.
            attributes: what is known of its origin, such as ``{"plan": "pro"}``, for experiments on a segment.
            trace: whether the prediction has a ``trace``: each call of a predictor, with what it cost.

        Raises:
            InputError: the inputs aren't a mapping of JSON values.
            IdempotencyConflictError: the key belongs to another request.
            RevisionLostError: the store can't give the token to run under any more.
            StoreUnavailableError: the broker is away.
            SessionNameError: what was given as the session can't be one.
            SubmitOptionError: a token, the priority, the outage contract, the key or an attribute is malformed, or
                ``at_least`` and ``exactly`` are both given.
        """
        options = SubmitOptions(
            session, at_least, exactly, max_staleness, outage, priority, deadline, stream, key, attributes, trace
        )
        request = self._build_request(program, options)
        [sent] = self._publisher.submit(
            request,
            [prepare_inputs(program, inputs, self._bounds)],
            priority=priority,
            keys=[idempotency_key],
            replies=self.results.reply_channel,
        )
        return self._open_handle(sent)

    def submit_batch(
        self,
        program: str,
        inputs: Iterable[Mapping[str, Any]],
        *,
        session: str = DEFAULT_SESSION,
        at_least: Token | str | None = None,
        exactly: Token | str | None = None,
        max_staleness: float | None = None,
        outage: str | OutagePolicy | None = None,
        priority: int = DEFAULT_PRIORITY,
        deadline: float | None = None,
        idempotency_keys: Sequence[IdempotencyKey | None] | None = None,
        key: str | None = None,
        attributes: Attributes | None = None,
        trace: bool = False,
    ) -> list[Handle]:
        """Enqueue predictions for many inputs as one message and return a handle for each, in their order.

        One worker process runs them all, many at a time, under one snapshot, or one for each arm of a rollout; each
        ends by itself, with a result or an error of its own, and is cancelled by itself. A batch costs a fraction of as
        many single messages.

        Args:
            program: as in :meth:`submit`.
            inputs: the inputs of each prediction.
            session, at_least, exactly, max_staleness, outage, priority, deadline, key, attributes, trace: as in
                :meth:`submit`, for all.
            idempotency_keys: a key or None for each of the inputs. Inputs whose key is known aren't sent again.

        Raises:
            what :meth:`submit` does, and ValueError: there are more or fewer keys than inputs. Nothing was sent.
        """
        options = SubmitOptions(
            session, at_least, exactly, max_staleness, outage, priority, deadline,
            key=key, attributes=attributes, trace=trace,
        )  # fmt: skip
        prepared = [prepare_inputs(program, given, self._bounds) for given in inputs]
        keys = [None] * len(prepared) if idempotency_keys is None else list(idempotency_keys)
        if len(keys) != len(prepared):
            raise ValueError(
                f"Give an idempotency key or None for each input: {len(prepared)} inputs, {len(keys)} keys."
            )
        request = self._build_request(program, options)
        if not prepared:
            return []
        tasks = self._publisher.submit(
            request, prepared, priority=priority, keys=keys, replies=self.results.reply_channel, batch=True
        )
        return [self._open_handle(sent) for sent in tasks]

    def submit_examples(
        self,
        program: str,
        examples: Sequence[Mapping[str, Any]],
        *,
        session: str = DEFAULT_SESSION,
        exactly: Token | str | None = None,
        metric: Mapping[str, Any] | None = None,
        priority: int = DEFAULT_PRIORITY,
        keys: Sequence[IdempotencyKey],
    ) -> list[Handle]:
        """Enqueue predictions for the examples of an evaluation as one message, as :meth:`submit_batch` does.

        Args:
            program, session, exactly, priority: as in :meth:`submit`.
            examples: of each the inputs, or with a metric its ``inputs`` and ``labels``; JSON values already.
            metric: what scores them, a pinned metric in its JSON form.
            keys: an idempotency key for each.

        Raises:
            what :meth:`submit` does.
        """
        options = SubmitOptions(session, None, exactly, None, None, priority, None)
        request = replace(self._build_request(program, options), metric=metric, evaluation=True)
        tasks = self._publisher.submit(
            request, examples, priority=priority, keys=keys, replies=self.results.reply_channel, batch=True
        )
        return [self._open_handle(sent) for sent in tasks]

    def send_task(
        self,
        name: str,
        arguments: Sequence[Any],
        *,
        task_id: str | None = None,
        queue: str | None = None,
        priority: int = MOST_URGENT,
        time_limit_s: float | None = None,
    ) -> str:
        """Enqueue another task of the workers and return its id.

        Args:
            name: of the task.
            arguments: its positional arguments, JSON values.
            task_id: its id; a new one if None.
            queue: where it waits; the queue of predictions if None.
            priority: 0 to 9, the most urgent.
            time_limit_s: seconds after which its worker ends it; the worker's own limit if None.

        Raises:
            StoreUnavailableError: the broker is away.
        """
        task_id = task_id or str(uuid4())
        message = self.app.amqp.create_task_message(
            task_id, name, arguments, {}, argsrepr=HIDDEN, kwargsrepr=HIDDEN, time_limit=time_limit_s
        )
        headers = {SENT_AT: time.time(), REPLY_CHANNEL: self.results.reply_channel}
        self._publisher.send(name, message, priority=priority, headers=headers, program="", queue=queue)
        return task_id

    def handle(self, task_id: str) -> Handle:
        """Return a handle for a task that was submitted before, here or elsewhere."""
        return Handle(task_id, self.results, self.chunks, self.payloads, self._wait_s, finder=self._finder)

    def score(
        self, task_id: str, name: str, value: ScoreValue, *, comment: str = "", scorer: str = DEFAULT_SCORER
    ) -> Score:
        """Score a prediction that has ended, submitted here or elsewhere; see :meth:`Handle.score`."""
        return self.handle(task_id).score(name, value, comment=comment, scorer=scorer)

    def scores(self, task_id: str) -> list[Score]:
        """Return a prediction's scores, by name and scorer; none if nobody scored it, or if it is unknown."""
        return self.handle(task_id).scores()

    def replay(self, task_id: str, timeout: float | None = None) -> Replay:
        """Make a finished prediction again, under the token and the program version that its provenance names.

        Args:
            task_id: the finished task.
            timeout: seconds to wait for the repetition.

        Raises:
            PredictionTimeoutError: the repetition has no result in time.
            RevisionLostError: the store can't give the token any more.
            PredictionNotReplayableError: the task has no result.
            BridgeError: it failed, or its repetition did.
        """
        if not self.handle(task_id).ready():
            raise PredictionNotReplayableError(task_id)
        wait_s = self._wait_s if timeout is None else timeout
        stored = run_blocking(fetch_with_inputs(self.results, self.payloads, task_id, wait_s))
        return repeat(stored, self.submit, wait_s)

    @overload
    def map(
        self,
        program: str,
        inputs: Iterable[Mapping[str, Any]],
        *,
        in_flight: int = 256,
        progress: bool = False,
        errors: Literal["raise"] = "raise",
        timeout: float | None = None,
        batch: int = 1,
        keep_results: bool = True,
        **options: Any,
    ) -> Iterator[FleetPrediction]: ...

    @overload
    def map(
        self,
        program: str,
        inputs: Iterable[Mapping[str, Any]],
        *,
        in_flight: int = 256,
        progress: bool = False,
        errors: ErrorMode,
        timeout: float | None = None,
        batch: int = 1,
        keep_results: bool = True,
        **options: Any,
    ) -> Iterator[FleetPrediction | BridgeError]: ...

    def map(
        self,
        program: str,
        inputs: Iterable[Mapping[str, Any]],
        *,
        in_flight: int = 256,
        progress: bool = False,
        errors: ErrorMode = "raise",
        timeout: float | None = None,
        batch: int = 1,
        keep_results: bool = True,
        **options: Any,
    ) -> Iterator[FleetPrediction | BridgeError]:
        """Yield a prediction for each of many inputs, in their order, with a bounded number enqueued at a time.

        Args:
            program: as in :meth:`submit`.
            inputs: taken as fast as results come back; it may be endless.
            in_flight: how many are enqueued and not yet yielded.
            progress: shows a progress bar on a terminal.
            errors: ``raise`` ends at the first failed prediction; ``return`` yields its error in its place.
            timeout: seconds to wait for each.
            batch: how many travel in one message, which saves most of what a message costs.
            keep_results: False drops each result from Redis once it was yielded, for a million inputs; it can't be
                scored or replayed then.
            **options: what :meth:`submit` takes, but no ``idempotency_key`` and no ``stream``.

        Raises:
            SessionNotFoundError: the session was never published; nothing was sent.
        """
        run_blocking(check_published(self, **options))
        source = track_progress(inputs, program) if progress else inputs

        def send(batch_inputs: Sequence[Mapping[str, Any]]) -> list[Handle]:
            if batch > 1:
                return self.submit_batch(program, batch_inputs, **options)
            return [self.submit(program, given, **options) for given in batch_inputs]

        forget = None if keep_results else partial(forget_results, self.results, self.payloads)
        return map_inputs(send, source, in_flight=in_flight, batch=batch, errors=errors, timeout=timeout, forget=forget)

    def signature(
        self,
        program: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        session: str = DEFAULT_SESSION,
        at_least: Token | str | None = None,
        exactly: Token | str | None = None,
        max_staleness: float | None = None,
        outage: str | OutagePolicy | None = None,
        take: Mapping[str, str] | None = None,
        priority: int = DEFAULT_PRIORITY,
    ) -> Signature:
        """Return a Celery signature, for chains, groups and chords, also with tasks of your own.

        Those go where their own app routes them. What they get of a prediction is read by :meth:`prediction`.

        Args:
            program: as in :meth:`submit`.
            inputs: left out where a previous prediction's outputs are the inputs, and for a program without any.
            session, at_least, exactly, max_staleness, outage: as in :meth:`submit`.
            priority: as in :meth:`submit`, and in ``signature.set(priority=…)``: 9 is the most urgent.
            take: input field to the previous prediction's output field; all outputs by their own names if None. After a
                group each field is the list of the group's values.

        Example:
            >>> answer = fleet.signature("answer", {"question": "…"})
            >>> steps = chain(answer, fleet.signature("sum", take={"text": "answer"}))
            >>> summary = fleet.handle(steps.apply_async().id).get()
        """
        options = SubmitOptions(session, at_least, exactly, max_staleness, outage, priority, deadline=None)
        request = options.build_request(program, self.namespace)
        given = None if inputs is None else prepare_inputs(program, inputs, self._bounds)
        step = (request, given, take, self.payloads, self.replication)
        return build_signature(self.app, *step, queue=self.queue, priority=priority)

    def prediction(self, result: Mapping[str, Any]) -> FleetPrediction:
        """Return the prediction that a task of your own got as its argument, in a chain or a chord.

        Args:
            result: what ``tasks.predict`` returned; also one that was too large for a message and came by reference.

        Raises:
            InputError: it is no result of a prediction.
            PayloadLostError: it came by reference, and isn't there any more.
            StoreUnavailableError: Redis is away.
        """
        if not is_result(result):
            raise InputError("?", "result", f"it must be what a prediction returned, not {type(result).__name__}")
        from snakepit_bridge.client.fleet_prediction import FleetPrediction

        return FleetPrediction.from_result(run_blocking(self.payloads.load_result(Result.decode(result))))

    def program(self, reference: str, *, session: str = DEFAULT_SESSION, **options: Any) -> FleetProgram:
        """Return a ``dspy.Module`` that runs a registered program on the fleet."""
        from snakepit_bridge.client.fleet_program import FleetProgram

        return FleetProgram(self.submit, reference, {"session": session, **options})

    def _build_request(self, program: str, options: SubmitOptions) -> PredictionRequest:
        """Return what the predictions of these options have in common, once their exact revision is safe."""
        request = options.build_request(program, self.namespace)
        if request.requirement.kind == "exactly":
            run_blocking(self._keep_revision(request.session, cast(Token, request.requirement.token)))
        return request

    async def _keep_revision(self, session: str, token: Token) -> None:
        """Keep an exact revision from being trimmed while its prediction waits, and for as long as its result."""
        await self.store.keep(await self.store.read_at(session, token), self._expires_s)

    def _open_handle(self, sent: SentRequest) -> Handle:
        return Handle(sent.task_id, self.results, self.chunks, self.payloads, self._wait_s, sent.replies, self._finder)
