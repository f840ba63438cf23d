"""Fleet: the client's entry point. Enqueue predictions, await them, register programs, publish variables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from celery import Celery
from celery.canvas import Signature

from snakepit_bridge.client.broker import is_same_server
from snakepit_bridge.client.canvas import route_foreign_steps
from snakepit_bridge.client.celery_app import create_client_app, get_backend_url, get_broker_url
from snakepit_bridge.client.handle import Handle
from snakepit_bridge.client.mapping import ErrorMode, map_inputs, track_progress
from snakepit_bridge.client.options import SubmitOptions, check_priority, prepare_inputs
from snakepit_bridge.client.promotion import promote
from snakepit_bridge.client.publisher import MessagePublisher, SentRequest
from snakepit_bridge.client.rabbitmq import is_rabbitmq
from snakepit_bridge.client.registration import build_spec
from snakepit_bridge.client.replay import Replay
from snakepit_bridge.client.results import Results
from snakepit_bridge.client.stream import ChunkReader
from snakepit_bridge.client.task_lookup import TaskFinder
from snakepit_bridge.costs.report import CostDimension, CostReport, read_costs
from snakepit_bridge.delivery.payloads import DEFAULT_LIMIT_BYTES, Payloads
from snakepit_bridge.exceptions import BridgeError, InputError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.protocol.json_values import BOUNDS, ValueBounds, escape
from snakepit_bridge.protocol.messages import (
    DEFAULT_PRIORITY,
    DEFAULT_SESSION,
    HIDDEN,
    PREDICT,
    PROGRAM,
    PredictionRequest,
    Requirement,
    Result,
    check_session,
    is_result,
)
from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE, check_namespace, default_queue
from snakepit_bridge.protocol.targeting import Attributes
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.connection import RedisConnection, mask_url
from snakepit_bridge.redis.key_names import FleetKeys, IdempotencyKey
from snakepit_bridge.releases.scores import DEFAULT_SCORER, Score, ScoreValue
from snakepit_bridge.snapshots.acknowledgements import Acks, ProcessAck
from snakepit_bridge.snapshots.freshness import FreshnessPolicy, OutagePolicy

if TYPE_CHECKING:
    from snakepit_bridge.client.experiments import Experiments
    from snakepit_bridge.client.fleet_prediction import FleetPrediction
    from snakepit_bridge.client.fleet_program import FleetProgram
    from snakepit_bridge.client.judges import Judges
    from snakepit_bridge.client.rollouts import Rollouts
    from snakepit_bridge.dspy_integration.bounds import TargetBounds
    from snakepit_bridge.elixir.write_back import ElixirAuthority
    from snakepit_bridge.programs.registry import Program, ProgramListing, ProgramRegistry
    from snakepit_bridge.session_context import SessionContext
    from snakepit_bridge.snapshots import SnapshotStore

DEFAULT_URL = "redis://localhost:6379/0"


class Fleet:
    """A fleet of workers, as an application sees it. Opens nothing until it is used; safe in threads and after a fork.

    Args:
        redis_url: Redis or Valkey that the workers use; also the broker, unless another is named.
        broker_url: another broker, RabbitMQ, as the workers' ``DSPEX_BROKER_URL``; without effect if ``app`` is given.
        app: a Celery app to send with, whose result backend is Redis; its configuration stays as it is.
        namespace: the fleet's own part of the Redis, as the workers' settings have it; others are out of reach.
        queue: where the workers take predictions from; the namespace's own if None.
        wait_s: seconds that waiting for one prediction takes at most, unless a call says otherwise.
        timeout_s: seconds within which Redis must answer.
        result_expires_s: seconds that idempotency keys and cancellations are kept.
        allowed_packages: packages whose classes, tools and types the specs of programs may name.
        bridge: ``HOST:PORT`` of the Elixir server to which changes go of the sessions that it owns.
        payload_bytes: inputs beyond about so many bytes travel beside their message, by reference.
        bounds: how deep and how large an input may be.
        target_bounds: how much a program that is registered may ask for; give what the workers are set to.

    Example:
        >>> fleet = Fleet()
        >>> qa = dspy.ChainOfThought("question -> answer")
        >>> program = fleet.register("qa", qa, bindings={"temperature": "llm_temperature"})
        >>> fleet.submit("qa", {"question": "What is 6 times 7?"}).get().answer
        '42'
    """

    def __init__(
        self,
        redis_url: str | None = None,
        *,
        broker_url: str | None = None,
        app: Celery | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        queue: str | None = None,
        wait_s: float = 600.0,
        timeout_s: float = 5.0,
        result_expires_s: int = 86_400,
        allowed_packages: Iterable[str] = (),
        bridge: str | None = None,
        payload_bytes: int = DEFAULT_LIMIT_BYTES,
        bounds: ValueBounds = BOUNDS,
        target_bounds: TargetBounds | None = None,
    ) -> None:
        self._given_app = app
        self._broker_url = broker_url
        self._url = redis_url or (get_backend_url(app) if app is not None else DEFAULT_URL)
        self.connection = RedisConnection(self._url, timeout_s=timeout_s)
        self.namespace = check_namespace(namespace)
        self.queue = queue or default_queue(namespace)
        self._wait_s = wait_s
        self._timeout_s = timeout_s
        self._expires_s = result_expires_s
        self._allowed = tuple(allowed_packages)
        self._bridge = bridge
        self._payload_bytes = payload_bytes
        self._bounds = bounds
        self._target_bounds = target_bounds

    def __repr__(self) -> str:
        return f"Fleet({self.connection.url!r})"

    @property
    def url(self) -> str:
        """The Redis URL, without its password."""
        return self.connection.url

    @property
    def broker(self) -> str:
        """The broker's URL, without its password."""
        return mask_url(get_broker_url(self.app))

    @property
    def on_rabbitmq(self) -> bool:
        """Whether the broker is RabbitMQ."""
        return is_rabbitmq(get_broker_url(self.app))

    @cached_property
    def store(self) -> SnapshotStore:
        """The store of the fleet's sessions."""
        from snakepit_bridge.snapshots import open_store

        return open_store(self._url, namespace=self.namespace, timeout_s=self._timeout_s)

    @cached_property
    def judges(self) -> Judges:
        """The judges, which score a share of a program's predictions."""
        from snakepit_bridge.client.judges import Judges

        return Judges(self.store, self.registry, self.connection, self.namespace)

    @cached_property
    def elixir(self) -> ElixirAuthority | None:
        """The Elixir server that sessions may belong to, if the fleet was told of one."""
        if self._bridge is None:
            return None
        from snakepit_bridge.elixir.demand import SessionDemand
        from snakepit_bridge.elixir.write_back import ElixirAuthority
        from snakepit_bridge.redis.lease import Leases

        wanted, turns = SessionDemand(self.connection, namespace=self.namespace), Leases(self.connection)
        return ElixirAuthority(self._bridge, self.store, demand=wanted, leases=turns, namespace=self.namespace)

    @cached_property
    def app(self) -> Celery:
        """The Celery app that requests are sent with."""
        if self._given_app is not None:
            return self._given_app
        return create_client_app(
            self._url,
            timeout_s=self._timeout_s,
            expires_s=self._expires_s,
            namespace=self.namespace,
            broker_url=self._broker_url,
        )

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
    ) -> Handle:
        """Enqueue one prediction and return its handle at once.

        Args:
            program: ``qa``, ``qa@prod`` (a label) or ``qa:3`` (a version).
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

        Raises:
            InputError: the inputs aren't a mapping of JSON values.
            IdempotencyConflictError: the key belongs to another request.
            RevisionLostError: the store can't give the token to run under any more.
            StoreUnavailableError: the broker is away.
            SessionNameError: what was given as the session can't be one.
            ValueError: a token, the priority, the outage contract, the key or an attribute is malformed, or
                ``at_least`` and ``exactly`` are both given.
        """
        terms = SubmitOptions(
            session, at_least, exactly, max_staleness, outage, priority, deadline, stream, key, attributes
        )
        request = self._build_request(program, terms)
        [sent] = self._publisher.submit(
            request,
            [prepare_inputs(program, inputs, self._bounds)],
            priority=priority,
            keys=[idempotency_key],
            replies=self.results.reply_channel,
        )
        return self._make_handle(sent)

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
    ) -> list[Handle]:
        """Enqueue predictions for many inputs as one message and return a handle for each, in their order.

        One worker process runs them all, many at a time, under one snapshot, or one for each arm of a rollout; each
        ends by itself, with a result or an error of its own, and is cancelled by itself. A batch costs a fraction of as
        many single messages.

        Args:
            program: as in :meth:`submit`.
            inputs: the inputs of each prediction.
            session, at_least, exactly, max_staleness, outage, priority, deadline, key, attributes: as in
                :meth:`submit`, for all.
            idempotency_keys: a key or None for each of the inputs. Inputs whose key is known aren't sent again.

        Raises:
            what :meth:`submit` does, and ValueError: there are more or fewer keys than inputs. Nothing was sent.
        """
        terms = SubmitOptions(
            session, at_least, exactly, max_staleness, outage, priority, deadline, key=key, attributes=attributes
        )
        named = [prepare_inputs(program, given, self._bounds) for given in inputs]
        keys = [None] * len(named) if idempotency_keys is None else list(idempotency_keys)
        if len(keys) != len(named):
            raise ValueError(f"Give an idempotency key or None for each input: {len(named)} inputs, {len(keys)} keys.")
        request = self._build_request(program, terms)
        if not named:
            return []
        sent = self._publisher.submit(
            request, named, priority=priority, keys=keys, replies=self.results.reply_channel, batch=True
        )
        return [self._make_handle(task) for task in sent]

    def handle(self, task_id: str) -> Handle:
        """Return a handle for a task that was submitted before, here or elsewhere."""
        return Handle(task_id, self.results, self.chunks, self.payloads, self._wait_s, finder=self._finder)

    def score(
        self, task_id: str, name: str, value: ScoreValue, *, comment: str = "", scorer: str = DEFAULT_SCORER
    ) -> Score:
        """Score a prediction that has ended, submitted here or elsewhere; see :meth:`Handle.score`."""
        return self.handle(task_id).score(name, value, comment=comment, scorer=scorer)

    def scores(self, task_id: str) -> list[Score]:
        """Return a prediction's scores, by name and scorer; none where nobody scored it."""
        return self.handle(task_id).scores()

    def replay(self, task_id: str, timeout: float | None = None) -> Replay:
        """Make a finished prediction again, under the token and the program version that its provenance names.

        Args:
            task_id: the finished task.
            timeout: seconds to wait for the repetition.

        Raises:
            PredictionTimeoutError: the repetition has no result in time.
            RevisionLostError: the store can't give the token any more.
            BridgeError: the task has no result, or it failed, or its repetition did.
        """
        if not self.handle(task_id).ready():
            raise BridgeError(
                f"Prediction {task_id} has no result to replay: it is unknown, not finished, or its result expired. "
                "Check its id, or wait for it first."
            )
        wait_s = self._wait_s if timeout is None else timeout
        result = run_blocking(self._fetch_with_inputs(task_id, wait_s))
        # DSPy comes in here, as it does with any prediction.
        from snakepit_bridge.client.fleet_prediction import FleetPrediction

        first = FleetPrediction.from_result(result)
        provenance = first.provenance
        program = f"{provenance.program}:{provenance.version}"
        inputs = cast("Mapping[str, Any]", result.inputs)
        again = self.submit(program, inputs, session=provenance.session, exactly=provenance.token)
        return Replay(inputs, first, again.get(wait_s))

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
            **options: what :meth:`submit` takes, but no ``idempotency_key`` and no ``stream``.
        """
        source = track_progress(inputs, program) if progress else inputs

        def send(batch_inputs: Sequence[Mapping[str, Any]]) -> list[Handle]:
            if batch > 1:
                return self.submit_batch(program, batch_inputs, **options)
            return [self.submit(program, given, **options) for given in batch_inputs]

        return map_inputs(send, source, in_flight=in_flight, batch=batch, errors=errors, timeout=timeout)

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
            inputs: left out where a previous prediction's outputs are the inputs.
            session, at_least, exactly, max_staleness, outage: as in :meth:`submit`.
            priority: as in :meth:`submit`, and in ``signature.set(priority=…)``: 9 is the most urgent.
            take: input field to the previous prediction's output field; all outputs by their own names if None. After a
                group each field is the list of the group's values.

        Example:
            >>> answer = fleet.signature("answer", {"question": "…"})
            >>> steps = chain(answer, fleet.signature("sum", take={"text": "answer"}))
            >>> summary = fleet.handle(steps.apply_async().id).get()
        """
        required, terms = Requirement.of(at_least, exactly), FreshnessPolicy.of(max_staleness, outage)
        check_priority(priority)
        check_session(session)
        route_foreign_steps()
        given = None if inputs is None else prepare_inputs(program, inputs, self._bounds)
        crossing = escape(given)
        request = PredictionRequest(
            program,
            {},
            session,
            required,
            None,
            take,
            terms.max_staleness_s,
            None if outage is None else str(terms.outage),
            namespace=self.namespace,
            chained=given is None,
            escaped=crossing is not given,
        )
        args = (program,) if given is None else (crossing, program)
        hidden = {"argsrepr": HIDDEN, "kwargsrepr": HIDDEN, "headers": {PROGRAM: program}}
        options = {"queue": self.queue, "priority": priority, **hidden}
        return self.app.signature(PREDICT, args=args, kwargs=request.keywords(), options=options)

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

    def register(
        self,
        name: str,
        module: Any,
        bindings: Mapping[str, str] | None = None,
        *,
        arguments: Mapping[str, Any] | None = None,
        choose_by: str | None = None,
        among: Iterable[str] = (),
        lm: str | None = None,
        cache: Mapping[str, Any] | None = None,
        executes_code: bool = False,
        trial: bool = True,
    ) -> Program:
        """Register a program as its newest version and return it; an unchanged one keeps its version.

        Args:
            name: what tasks call it.
            module: a DSPy module, a :class:`ProgramSpec`, or a spec as a mapping or JSON text.
            bindings: module attribute to session variable.
            arguments: constructor arguments, for a module class of one's own.
            choose_by: session variable that names the module type, ``among`` these.
            lm: LM profile.
            cache: how its LM calls share their answers, such as ``{"ttl_s": 600, "share": "fleet"}``; without it each
                call is a request to the provider.
            executes_code: whether code of its own computes or executes code rather than waits, as ProgramOfThought,
                CodeAct and RLM do. It then runs on workers on prefork.
            trial: whether a module instance is run here with placeholders, without an LM, beside the one that a worker
                would build, to see that both ask the same. What it does beside its LM calls it does in a trial too.

        Raises:
            ProgramSpecError: a part of it is refused; nothing was stored.
            UnknownModuleError: it names a module type that isn't registered.
            StoreUnavailableError: Redis is away.
        """
        from snakepit_bridge.dspy_integration.bounds import DEFAULT_BOUNDS
        from snakepit_bridge.programs.build import check_spec

        options = {
            "bindings": bindings,
            "arguments": arguments,
            "choose_by": choose_by,
            "among": tuple(among),
            "lm": lm,
            "cache": cache,
            "executes_code": executes_code,
        }
        bounds = self._target_bounds or DEFAULT_BOUNDS
        trial = trial and not executes_code
        spec, allowed = build_spec(name, module, self._allowed, options, bounds=bounds, trial=trial)
        check_spec(spec, allowed, program=name, bounds=bounds)
        return run_blocking(self.registry.register(name, spec))

    def label(self, name: str, label: str, version: int, *, author: str = "", reason: str = "") -> None:
        """Point a label such as ``prod`` at a version of a program; a rollout of the label ends by it.

        Args:
            name, label, version: what is to point where.
            author, reason: recorded with the end of the rollout.

        Raises:
            ProgramNotFoundError: there is no such version.
        """
        run_blocking(self.registry.label(name, label, version, author=author, reason=reason))

    def programs(self) -> list[ProgramListing]:
        """Return the registered programs, by name."""
        return run_blocking(self.registry.list())

    def cost(self, by: CostDimension = "program", since_s: float = 86_400.0) -> CostReport:
        """Return what predictions cost that ended lately, each counted once.

        Args:
            by: ``program``, ``session``, ``revision`` or ``profile``.
            since_s: how many seconds back, up to 35 days; the sums are by hour, and the first hour counts as a whole.

        Raises:
            ValueError: an argument can't be.
            StoreUnavailableError: Redis is away.
        """
        return run_blocking(read_costs(self.connection, FleetKeys(self.namespace), by, since_s))

    @cached_property
    def rollouts(self) -> Rollouts:
        """The rollouts of this fleet: start, show and steer them."""
        from snakepit_bridge.client.rollouts import AsyncRollouts, Rollouts
        from snakepit_bridge.releases.target_opener import TargetOpener

        def open_session(name: str, author: str) -> SessionContext:
            return self.session(name, author=author)

        open_target = TargetOpener(self.store, self._acks, lambda: self.registry)
        return Rollouts(AsyncRollouts(self.connection, self.namespace, open_target, open_session))

    @cached_property
    def experiments(self) -> Experiments:
        """The experiments of this fleet: start, show and end them."""
        from snakepit_bridge.client.experiments import AsyncExperiments, Experiments

        def open_session(name: str, author: str) -> SessionContext:
            return self.session(name, author=author)

        return Experiments(
            AsyncExperiments(self.connection, self.namespace, self.store, lambda: self.registry, open_session)
        )

    def session(self, name: str = DEFAULT_SESSION, *, author: str = "") -> SessionContext:
        """Return a session of this fleet's store, to read its variables and to publish.

        What an Elixir server owns is changed there, if the fleet was told of its ``bridge``.
        """
        from snakepit_bridge.session_context import SessionContext

        return SessionContext(name, self.store, author=author, bridge=self.elixir)

    def applied(self, session: str) -> list[ProcessAck]:
        """Return which revision each live worker process that holds a session applies, or why it can't.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        return run_blocking(self._acks.read_acks(session))

    def promote(self, session: str, label: str, at: Token | str = "latest", *, wait_s: float = 30.0) -> Token:
        """Point a session's label at a revision once every live process that holds the session applies it.

        Args:
            session: its name.
            label: such as ``stable``.
            at: a token, another label, or ``latest``.
            wait_s: seconds to wait for the processes.

        Raises:
            RevisionNotAppliedError: a process refuses it, or doesn't apply it in time, or none holds the session.
            LabelMovedError: the label was moved by somebody else meanwhile.
            RevisionLostError: the store can't give the revision any more.
        """
        return run_blocking(promote(self.store, self._acks, session, label, at, wait_s))

    async def _fetch_with_inputs(self, task_id: str, wait_s: float) -> Result:
        """Return a finished prediction's result with its inputs, fetched if they are stored by reference."""
        result = await self.payloads.load_result(await self.results.wait(task_id, wait_s))
        inputs = result.inputs
        return replace(result, inputs=await self.payloads.get(inputs)) if isinstance(inputs, str) else result

    def _build_request(self, program: str, conditions: SubmitOptions) -> PredictionRequest:
        """Return what the predictions of these conditions have in common, once their exact revision is safe."""
        request = conditions.build_request(program, self.namespace)
        self._pin_revision(request.session, request.requirement)
        return request

    def _make_handle(self, sent: SentRequest) -> Handle:
        return Handle(sent.task_id, self.results, self.chunks, self.payloads, self._wait_s, sent.replies, self._finder)

    def _pin_revision(self, session: str, required: Requirement) -> None:
        """Keep an exact revision from being trimmed while its prediction waits, and for as long as its result."""
        if required.kind == "exactly":
            run_blocking(self._keep_revision(session, cast(Token, required.token)))

    async def _keep_revision(self, session: str, token: Token) -> None:
        await self.store.keep(await self.store.read_at(session, token), self._expires_s)

    @cached_property
    def _acks(self) -> Acks:
        return Acks(self.connection, namespace=self.namespace)

    @cached_property
    def results(self) -> Results:
        """The results that this process waits for."""
        return Results(self.app, self.connection, namespace=self.namespace)

    @cached_property
    def payloads(self) -> Payloads:
        """The inputs and results that travel beside their messages."""
        return Payloads(self.connection, self.namespace, self._payload_bytes)

    @cached_property
    def chunks(self) -> ChunkReader:
        """The pieces of answers that are being written."""
        return ChunkReader(self.connection, self.results, self.namespace)

    @cached_property
    def _finder(self) -> TaskFinder | None:
        """None where the broker isn't the Redis that the fleet knows."""
        at_hand = is_same_server(get_broker_url(self.app), self._url)
        return TaskFinder(self.connection, self.namespace, self.queue) if at_hand else None

    @cached_property
    def _publisher(self) -> MessagePublisher:
        return MessagePublisher(self.app, self.payloads, queue=self.queue, keep_s=self._expires_s, url=self._url)

    @cached_property
    def registry(self) -> ProgramRegistry:
        """The registered programs; loads DSPy."""
        from snakepit_bridge.programs.registry import ProgramRegistry

        return ProgramRegistry(self.connection, namespace=self.namespace)
