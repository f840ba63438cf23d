"""The names of the fleet's keys and channels in Redis, each written once.

The keys of a session's snapshots are in ``snapshots/redis_keys.py`` and those of message delivery in
``delivery/keys.py``. ``docs/reference/redis-keys.md`` lists all of them with their types and expiries. What braces
enclose is the hash tag that places a key on a node of a cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE

_ESCAPED = str.maketrans({"%": "%25", ":": "%3A", "/": "%2F", "{": "%7B", "}": "%7D"})


@dataclass(frozen=True, slots=True)
class FleetKeys:
    """The keys and channels of one fleet.

    Attributes:
        namespace: their prefix.
    """

    namespace: str = DEFAULT_NAMESPACE

    @property
    def data_format(self) -> str:
        """The number of the format of what the fleet keeps."""
        return f"{self.namespace}:format"

    @property
    def wanted_sessions(self) -> str:
        """The sorted set of followed sessions that the fleet uses."""
        return f"{self.namespace}:wanted"

    @property
    def refreshers(self) -> str:
        """The sorted set of running refreshers."""
        return f"{self.namespace}:refreshers"

    def refresher(self, name: str) -> str:
        """Return the key of the processes that ran under a refresher's name."""
        return f"{self.refreshers}:{name}"

    def session_lease(self, session: str) -> str:
        """Return the key of the lease of the refresher that follows a session."""
        return f"{self._session(session)}:lease"

    def session_writing(self, session: str) -> str:
        """Return the key of the lock of a session's writers to its Elixir server."""
        return f"{self._session(session)}:writing"

    def applied_revisions(self, session: str) -> str:
        """Return the key of the hash from worker process to the revision of a session that it applies."""
        return f"{self._session(session)}:applied"

    @property
    def processes(self) -> str:
        """The sorted set of live worker processes."""
        return f"{self.namespace}:processes"

    @property
    def live_processes(self) -> str:
        """The sorted set of worker processes that report their activity, by the time of their last report."""
        return f"{self.namespace}:{{activity}}:processes"

    @property
    def process_reports(self) -> str:
        """The hash of the newest report of each worker process."""
        return f"{self.namespace}:{{activity}}:reports"

    def activity_minute(self, at: float) -> str:
        """Return the key of the hash of what ended in a minute.

        Args:
            at: Unix seconds within it.
        """
        return f"{self.namespace}:{{activity}}:minute:{int(at // 60)}"

    @property
    def programs(self) -> str:
        """The set of registered programs."""
        return f"{self.namespace}:programs"

    def program_versions(self, name: str) -> str:
        """Return the key of the hash of a program's versions and labels."""
        return f"{self.namespace}:{{p:{name}}}:versions"

    def program_spec(self, name: str, digest: str) -> str:
        """Return the key of a program's spec by its digest."""
        return f"{self.namespace}:{{p:{name}}}:spec:{digest}"

    def program_variant(self, name: str, digest: str) -> str:
        """Return the key of the spec of a variant of a program, which isn't registered and expires."""
        return f"{self.namespace}:{{p:{name}}}:variant:{digest}"

    def program_lineage(self, name: str) -> str:
        """Return the key of the hash from a program's version to where it comes from."""
        return f"{self.namespace}:{{p:{name}}}:lineage"

    def program_rollouts(self, name: str, label: str) -> str:
        """Return the key of the stream of what has happened to the rollouts of a program's label."""
        return f"{self.namespace}:{{p:{name}}}:rollouts:{label}"

    def program_experiments(self, name: str, label: str) -> str:
        """Return the key of the stream of what has happened to the experiments on a program's label."""
        return f"{self.namespace}:{{p:{name}}}:experiments:{label}"

    def program_records(self, name: str) -> str:
        """Return the key of the stream of recorded predictions of a program."""
        return f"{self.namespace}:{{p:{name}}}:records"

    @property
    def datasets(self) -> str:
        """The set of datasets' names."""
        return f"{self.namespace}:datasets"

    def dataset_versions(self, name: str) -> str:
        """Return the key of the hash of a dataset's versions."""
        return f"{self.namespace}:{{d:{name}}}:versions"

    def dataset_content(self, name: str, digest: str) -> str:
        """Return the key of the hash of the chunks of a version's content."""
        return f"{self.namespace}:{{d:{name}}}:content:{digest}"

    @property
    def rollouts(self) -> str:
        """The set of targets that have a rollout."""
        return f"{self.namespace}:rollouts"

    @property
    def rollout_lease(self) -> str:
        """The lease of the process that moves rollouts on."""
        return f"{self.rollouts}:lease"

    @property
    def audit(self) -> str:
        """The stream of who changed what."""
        return f"{self.namespace}:audit"

    @property
    def protections(self) -> str:
        """The hash of the rules that protect sessions and labels."""
        return f"{self.namespace}:protections"

    @property
    def approvals(self) -> str:
        """The sorted set of requests that wait for approval, by when they expire."""
        return f"{self.namespace}:approvals"

    def approval_request(self, request: str) -> str:
        """Return the key of the hash of a request that waits for approval, and of who has approved it."""
        return f"{self.namespace}:approval:{request}"

    @property
    def stalls(self) -> str:
        """The list of recent stalls of worker processes."""
        return f"{self.namespace}:stalls"

    def payload(self, digest: str) -> str:
        """Return the key of a large payload."""
        return f"{self.namespace}:payload:{digest}"

    @property
    def deliveries(self) -> str:
        """The prefix of the keys of message delivery."""
        return f"{self.namespace}:delivery"

    @property
    def limits(self) -> str:
        """The prefix of the keys of rate limits and parked predictions, with its colon."""
        return f"{self.namespace}:{{limits}}:"

    @property
    def lm_batches(self) -> str:
        """The prefix of the keys of LM requests that wait for a provider's batch, with its colon."""
        return f"{self.namespace}:{{lm-batches}}:"

    def cost(self, dimension: str, hour: int) -> str:
        """Return the key of the sums of what predictions cost, by program, profile or revision, in one hour.

        Args:
            dimension: what they are summed by.
            hour: since the Unix epoch.
        """
        return f"{self.namespace}:cost:{dimension}:{hour}"

    def idempotency(self, key: IdempotencyKey) -> str:
        """Return the key of the reservation of an idempotency key."""
        if isinstance(key, OwnedKey):
            return f"{self.namespace}:{{o:{join_key(key.owner, key.key)}}}:idempotency"
        return f"{self.namespace}:{{i:{key}}}:idempotency"

    def replies(self, client: str) -> str:
        """Return the channel on which a client is notified of its results."""
        return f"{self.namespace}:replies:{client}"

    @property
    def answered(self) -> str:
        """The channel on which ended leases on cached LM answers are published."""
        return f"{self.namespace}:answered"

    def cached_answer(self, digest: str) -> str:
        """Return the key of a cached LM answer."""
        return f"{self.namespace}:{{lm:{digest}}}:answer"

    def answer_lease(self, digest: str) -> str:
        """Return the key of the lease on an LM call whose answer will be cached."""
        return f"{self.namespace}:{{lm:{digest}}}:lease"

    def prediction_session(self, task_id: str) -> str:
        """Return the key of the session that a prediction was submitted under at a gateway."""
        return f"{self.namespace}:{{t:{task_id}}}:session"

    def prediction_arms(self, task_id: str) -> str:
        """Return the key of the arms of a prediction that may be ended from outside."""
        return f"{self.namespace}:{{t:{task_id}}}:arms"

    def prediction_journal(self, task_id: str) -> str:
        """Return the key of the hash of what a prediction's calls were answered, until its result is committed."""
        return f"{self.namespace}:{{t:{task_id}}}:journal"

    def prediction_lm_calls(self, task_id: str) -> str:
        """Return the key of a prediction's LM calls, where they are captured."""
        return f"{self.namespace}:{{t:{task_id}}}:lm-calls"

    def scores(self, task_id: str) -> str:
        """Return the key of the hash of a prediction's scores."""
        return f"{self.namespace}:{{t:{task_id}}}:scores"

    def prediction_recorded(self, task_id: str) -> str:
        """Return the key that says where a prediction is recorded, and exists as long as it is."""
        return f"{self.namespace}:{{t:{task_id}}}:recorded"

    def arm_counts(self, rollout: str, stage: int, arm: str, minute: int) -> str:
        """Return the key of the counts of what ended in one minute under an arm of a rollout's stage.

        Args:
            rollout: its id.
            stage: the stage's number.
            arm: ``baseline`` or ``candidate``.
            minute: since the Unix epoch.
        """
        return f"{self.namespace}:{{r:{rollout}}}:counts:{stage}:{arm}:{minute}"

    def rollout_looks(self, rollout: str) -> str:
        """Return the key of the stream of what the guards of a rollout said at past looks."""
        return f"{self.namespace}:{{r:{rollout}}}:looks"

    def judge_open(self, program: str, name: str) -> str:
        """Return the key of the sorted set of a judge's predictions that wait or run."""
        return f"{self._judge(program, name)}:open"

    def judge_hour(self, program: str, name: str, hour: int) -> str:
        """Return the key of the hash of what a judge did in one hour.

        Args:
            program: the program that it judges.
            name: of its scores.
            hour: since the Unix epoch.
        """
        return f"{self._judge(program, name)}:hour:{hour}"

    @property
    def evaluations(self) -> str:
        """The sorted set of evaluations' ids, by the time when they ended."""
        return f"{self.namespace}:evaluations"

    def evaluation(self, evaluation: str) -> str:
        """Return the key of the hash of an evaluation's record and its examples' results."""
        return f"{self.namespace}:{{e:{evaluation}}}:record"

    @property
    def jobs(self) -> str:
        """The sorted set of jobs' ids, by the time when they were started."""
        return f"{self.namespace}:jobs"

    def job(self, job: str) -> str:
        """Return the key of the hash of what a job was given, how far it has come and how it ended."""
        return f"{self.namespace}:{{job:{job}}}:record"

    def gateway_request(self, digest: str) -> str:
        """Return the key of the record of a gateway's request."""
        return f"{self.namespace}:{{g:{digest}}}:request"

    def gateway_turn(self, digest: str) -> str:
        """Return the key of the lock of a gateway's request."""
        return f"{self.namespace}:{{g:{digest}}}:turn"

    def sign_in(self, digest: str) -> str:
        """Return the key of who is signed in to the console under an id.

        Args:
            digest: of the id, so that nobody who reads the key can use it.
        """
        return f"{self.namespace}:{{g:{digest}}}:sign-in"

    def begun_sign_in(self, digest: str) -> str:
        """Return the key of what a visitor of the console was sent to an OpenID provider with.

        Args:
            digest: of the visitor's id and the request's state.
        """
        return f"{self.namespace}:{{g:{digest}}}:begun-sign-in"

    def _judge(self, program: str, name: str) -> str:
        return f"{self.namespace}:{{j:{join_key(program, name)}}}"

    def _session(self, session: str) -> str:
        return f"{self.namespace}:{{s:{session}}}"


def join_key(*parts: str) -> str:
    """Join parts to one name that is unique to them: separators within parts are escaped."""
    return ":".join(part.translate(_ESCAPED) for part in parts)


@dataclass(frozen=True, slots=True)
class OwnedKey:
    """An idempotency key in the scope of an owner, such as a client of a gateway.

    Attributes:
        owner: the scope of the key.
        key: the key, as given by its owner.
    """

    owner: str
    key: str

    def __str__(self) -> str:
        return self.key


IdempotencyKey = str | OwnedKey
"""Requests with equal keys are one prediction."""
