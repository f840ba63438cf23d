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
    def programs(self) -> str:
        """The set of registered programs."""
        return f"{self.namespace}:programs"

    def program_versions(self, name: str) -> str:
        """Return the key of the hash of a program's versions and labels."""
        return f"{self.namespace}:{{p:{name}}}:versions"

    def program_spec(self, name: str, digest: str) -> str:
        """Return the key of a program's spec by its digest."""
        return f"{self.namespace}:{{p:{name}}}:spec:{digest}"

    def program_rollouts(self, name: str, label: str) -> str:
        """Return the key of the stream of what has happened to the rollouts of a program's label."""
        return f"{self.namespace}:{{p:{name}}}:rollouts:{label}"

    def program_experiments(self, name: str, label: str) -> str:
        """Return the key of the stream of what has happened to the experiments on a program's label."""
        return f"{self.namespace}:{{p:{name}}}:experiments:{label}"

    @property
    def rollouts(self) -> str:
        """The set of targets that have a rollout."""
        return f"{self.namespace}:rollouts"

    @property
    def rollout_lease(self) -> str:
        """The lease of the process that moves rollouts on."""
        return f"{self.rollouts}:lease"

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
        """Return the key of the arms of a prediction that has lost a worker."""
        return f"{self.namespace}:{{t:{task_id}}}:arms"

    def scores(self, task_id: str) -> str:
        """Return the key of the hash of a prediction's scores."""
        return f"{self.namespace}:{{t:{task_id}}}:scores"

    def arm_counts(self, rollout: str, stage: int, arm: str, minute: int) -> str:
        """Return the key of the counts of what ended in one minute under an arm of a rollout's stage.

        Args:
            rollout: its id.
            stage: the stage's number.
            arm: ``baseline`` or ``candidate``.
            minute: since the Unix epoch.
        """
        return f"{self.namespace}:{{r:{rollout}}}:counts:{stage}:{arm}:{minute}"

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

    def gateway_request(self, digest: str) -> str:
        """Return the key of the record of a gateway's request."""
        return f"{self.namespace}:{{g:{digest}}}:request"

    def gateway_turn(self, digest: str) -> str:
        """Return the key of the lock of a gateway's request."""
        return f"{self.namespace}:{{g:{digest}}}:turn"

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
