"""Minimal Redis permissions for each role of a fleet, as ACL rules for Redis 7 or Valkey.

The table lists what each part of the fleet's work uses, and which parts make up a role. The commands of the library's
Lua scripts are read from the scripts; those of workers and refreshers, which the library can't import, are repeated
here. Tests run each role under exactly these rules on real servers, and fail for a missing as for a superfluous right.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE, check_namespace, default_queue, exchanges
from snakepit_bridge.redis.scripts import source


class Role(StrEnum):
    """A process that connects to the fleet's Redis."""

    client = "client"
    worker = "worker"
    refresher = "refresher"
    gateway = "gateway"
    operator = "operator"


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of work, and the rights that it needs.

    In patterns ``{ns}`` stands for the namespace, ``{queue}`` for the queue, ``{db}`` for the database's number, and
    ``{control}`` and ``{events}`` for the exchanges of Celery's remote control and events.

    Attributes:
        commands: commands sent outside of scripts.
        keys: patterns of keys that are read and written.
        reads: patterns of keys that are only read.
        channels: patterns of channels. Subscribing to a pattern needs exactly that pattern.
        selectors: commands that are granted on some keys alone, as pairs of commands and a pattern of keys, which these
            commands may write, and nothing may read.
        scripts: scripts of this library, as ``package/name …``; their commands are read from the files.
        script_commands: commands of other scripts, and those that the library's scripts call by a variable.
    """

    commands: str = ""
    keys: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    selectors: tuple[tuple[str, str], ...] = ()
    scripts: str = ""
    script_commands: str = ""


SETINFO = "client|setinfo"
"""The command by which redis-py identifies itself."""

UNKNOWN_TO_7_0 = frozenset({SETINFO, "waitaof"})
"""Commands that Redis 7.0 doesn't know; it rejects a rule that names one."""

# At its start a process checks its rights in a transaction that it never executes.
_CONNECTION = Part(f"get multi select {SETINFO}", reads=("{ns}:format",))
# Who serves the fleet writes the number of its data's format, where there is none.
_MARKING = Part(selectors=(("setnx", "{ns}:format"),))
_SCRIPTS = Part("eval evalsha script|exists script|load")

_SESSION = ("{ns}:{{s:*",)
# Whoever changes something appends to the audit trail, and reads the rules that protect what is changed.
_AUDITED = Part(selectors=(("xadd", "{ns}:audit"),), reads=("{ns}:protections",))
_TRIMMING = Part(selectors=(("xtrim", "{ns}:audit"),))
_REQUESTING = Part(
    "expire hgetall zadd",
    keys=("{ns}:approval:*", "{ns}:approvals"),
    scripts="snakepit_bridge.audit/ add_request",
)
_APPROVING = Part(
    "del hgetall xrange xrevrange zrange zrem zremrangebyscore",
    keys=("{ns}:protections",),
    reads=("{ns}:audit",),
    scripts="snakepit_bridge.audit/ approve set_protection",
)
_READING = Part(
    "get ping subscribe unsubscribe",
    keys=_SESSION,
    channels=_SESSION,
    scripts="snakepit_bridge.snapshots.lua/ head heads read read_at",
    script_commands="persist pexpire",
)
_PUBLISHING = Part(
    "exists set zadd zrange zrem",
    keys=(*_SESSION, "{ns}:sessions", "{ns}:staged", "{ns}:staged:complete"),
    channels=_SESSION,
    scripts="snakepit_bridge.snapshots.lua/ checks declare drop history label labels prune publish retain rollback "
    "rollout rollout_events unlabel change_experiments",
)
_REENCRYPTING = Part(keys=_SESSION, scripts="snakepit_bridge.snapshots.lua/ stored_values replace_values")
_KEEPING = Part("exists get pexpire set", keys=_SESSION)
# Where a durability is asked for.
_REPLICATING = Part("expire wait waitaof", keys=_SESSION)
# Results of predictions that ask for one.
_CONFIRMING = Part("publish wait waitaof", channels=("{ns}:replies:*",))
_APPLIED = Part("hgetall time zrange", keys=_SESSION, reads=("{ns}:processes",))
_APPLYING = Part("expire hdel hset time zadd zremrangebyscore", keys=(*_SESSION, "{ns}:processes"))
# Whether a session that isn't there can be had from an Elixir server depends on whether a refresher runs.
_WANTING = Part("exists", keys=("{ns}:wanted",), reads=("{ns}:refreshers",), scripts="snakepit_bridge.elixir/ demand")
_LEASING = Part(scripts="snakepit_bridge.redis/ lease")

_PROGRAMS = Part("get hgetall hmget smembers", reads=("{ns}:programs", "{ns}:{{p:*"))
_REGISTERING = Part(
    "hget sadd smembers",
    keys=("{ns}:programs", "{ns}:{{p:*"),
    scripts="snakepit_bridge.programs/ label register",
)
# Workers take the steps that the controller decides on; everybody else also starts rollouts and looks at them.
_STAGING = Part(keys=("{ns}:{{p:*",), scripts="snakepit_bridge.programs/ read_rollout staging_events step_rollout")
_STARTING = Part(
    "sadd smembers xrange",
    keys=("{ns}:{{p:*", "{ns}:rollouts", "{ns}:{{r:*"),
    scripts="snakepit_bridge.programs/ change_experiments start_rollout",
)
_PAYLOADS = Part("expire get set", keys=("{ns}:payload:*",))

# A client looks for a message wherever it may be: after a reused idempotency key, or if no result arrives.
_SUBMITTING = Part(
    "expire get hexists hkeys hvals llen lpush lrange set zrange",
    keys=("{queue}*",),
    reads=("{ns}:delivery:*", "{ns}:{{limits}}:*", "{ns}:{{lm-batches}}:*"),
    scripts="snakepit_bridge.client.lua/ enqueue",
)
# Results, groups and chords have Celery's key names, so that any Celery client finds them.
_AWAITING = Part(
    "get subscribe unsubscribe",
    keys=("celery-task-meta-*",),
    channels=("celery-task-meta-*", "{ns}:replies:*"),
)
_STREAMING = Part("subscribe unsubscribe xrange", reads=("{ns}:pieces:*",), channels=("{ns}:pieces:*",))
_CANCELLING = Part(channels=("{ns}:cancel", "{ns}:replies:*"), scripts="snakepit_bridge.client.lua/ cancel")
# The worker that ends the last part of a chord counts the parts and sends the body's message.
_COMPOSED = Part(
    "del exec expire get mget multi publish set",
    keys=("celery-task-meta-*", "celery-taskset-meta-*"),
    channels=("celery-task-meta-*", "celery-taskset-meta-*"),
    script_commands="del exists expire get llen rpush sadd set sismember zadd zcount",
)
_COMPOSING = Part("setex subscribe unsubscribe")
# kombu stores queue bindings, and restores unacknowledged messages of all consumers.
_BINDING = Part(
    "exec multi sadd smembers",
    keys=("_kombu.binding*",),
    script_commands="del exists sadd time zadd zrangebyscore zrem",
)
_CONTROLLED = Part(
    "del exec llen lpush multi publish srem",
    keys=("*.{control}.pidbox*",),
    channels=("/{db}.{control}.pidbox",),
)
_CONTROL = Part("brpop set zrange", keys=("unacked_mutex",), reads=("unacked_index",))
_DEAD_LETTERS = Part(
    "del get hget hmget zcard zrevrange",
    keys=("{ns}:delivery:dead*", "{ns}:delivery:done:*"),
    scripts="snakepit_bridge.delivery/ drop retry",
)
_OPERATING = Part(
    "hkeys hlen hvals info llen zrange",
    reads=("{ns}:delivery:*", "{ns}:{{limits}}:*", "{ns}:stalls"),
    scripts="snakepit_bridge.delivery/ backlog",
)

_SCORING = Part(
    "hvals time",
    keys=("{ns}:{{t:*", "{ns}:{{r:*"),
    scripts="snakepit_bridge.releases/ score",
)

# Who exports the fleet's metrics reads what waits, the limits, and how sessions are applied.
_WATCHING_MESSAGES = Part(
    "hgetall",
    reads=("{queue}*", "{ns}:delivery:*", "{ns}:{{limits}}:*", "{ns}:{{lm-batches}}:*"),
    scripts="snakepit_bridge.delivery/ backlog",
)
_WATCHING_SESSIONS = Part(
    "hgetall time zcard zrange",
    reads=("{ns}:processes", "{ns}:refreshers", "{ns}:sessions", "{ns}:wanted", *_SESSION),
    scripts="snakepit_bridge.snapshots.lua/ head heads",
    script_commands="persist pexpire",
)

# Workers' own commands, with the scripts of workers.broker, tasks.rate_limits and tasks.response_cache.
_CLAIMING = Part(
    "client|tracking del exec exists expire get hget hgetall hincrby hkeys hscan hset llen lpush multi set time "
    "zrevrange",
    keys=("{queue}*", "{ns}:delivery:*"),
    script_commands="exists hdel hget hgetall hlen hset hsetnx llen lpush lrange ltrim rpush set time zadd zrange "
    "zrangebyscore zrem",
)
_COMMITTING = Part(
    "get mget",
    keys=("celery-task-meta-*", "{ns}:cost:*", "{ns}:{{r:*"),
    channels=("celery-task-meta-*", "{ns}:replies:*"),
    scripts="snakepit_bridge.costs/ sums",
    script_commands="expire get hincrby lpush publish set",
)
_JUDGING = Part(
    "time", keys=("{ns}:{{j:*", "{ns}:{{t:*", "{ns}:{{r:*"), scripts="snakepit_bridge.releases/ admit score settle"
)
_WATCHING_JUDGES = Part("hmget zcard", reads=("{ns}:{{j:*",))
_EVALUATING = Part("expire hget hset zadd zrange zremrangebyscore", keys=("{ns}:evaluations", "{ns}:{{e:*"))
_EVALUATION_RECORDS = Part("hget zrange", reads=("{ns}:evaluations", "{ns}:{{e:*"))
_OPTIMIZING = Part("hget hset set", keys=("{ns}:{{p:*",))
# A worker that runs one is a client of the fleet: it sends predictions, reads datasets, and stores what it finds.
_JOBS = Part("expire hmget hsetnx zadd zremrangebyscore zrevrange", keys=("{ns}:jobs", "{ns}:{{job:*"))
_RUNNING_JOBS = Part(
    "expire hget hgetall hmget hset hsetnx", keys=("{ns}:{{job:*",), reads=("{ns}:datasets", "{ns}:{{d:*")
)
_DATASETS = Part(
    "hget hgetall sadd smembers",
    keys=("{ns}:datasets", "{ns}:{{d:*"),
    scripts="snakepit_bridge.datasets/ add_version keep_chunk remove_version",
)
_RECORDING = Part(keys=("{ns}:{{p:*", "{ns}:{{t:*"), scripts="snakepit_bridge.datasets/ record")
_READING_RECORDS = Part("xlen xrange xrevrange unlink", keys=("{ns}:{{p:*",))
_COSTS = Part("hscan", reads=("{ns}:cost:*",))
_WRITING_PIECES = Part("exists expire publish xadd", keys=("{ns}:pieces:*",), channels=("{ns}:pieces:*", "{ns}:cancel"))
_LIMITING = Part(
    "hgetall subscribe zrange",
    keys=("{ns}:{{limits}}:*",),
    channels=("{ns}:{{limits}}:*",),
    script_commands="del exists get hdel hexists hget hgetall hincrby hincrbyfloat hmget hset pexpire pttl publish "
    "rpush set time zadd zcard zrange zrank zrem zremrangebyscore zscore",
)
_CACHING = Part(
    "get subscribe", keys=("{ns}:{{lm:*",), channels=("{ns}:answered",), script_commands="del get publish set"
)
_EVENTS = Part(
    "psubscribe publish punsubscribe",
    keys=("{events}*",),
    channels=("/{db}.{events}/*", "/{db}.{events}/worker.*", "/{db}.{control}.pidbox"),
)
# The worker that leads looks after the rollouts; each tells it of those that it meets.
_CONTROLLING = Part(
    "expire hgetall sadd smembers srem time xadd zrange",
    keys=(*_SESSION, "{ns}:rollouts", "{ns}:rollouts:lease", "{ns}:{{r:*"),
    channels=_SESSION,
    scripts="snakepit_bridge.snapshots.lua/ rollout rollout_events",
)
_JOURNALING = Part("expire hgetall hset", keys=("{ns}:{{t:*",), script_commands="del")
_BATCHING = Part(
    "get hlen hmget hvals mget smembers zcard zrange",
    keys=("{ns}:{{lm-batches}}:*",),
    scripts="snakepit_bridge.lm_batches.lua/ answer form parked release requeue save",
    script_commands="del hdel hexists hget hset hsetnx rpush sadd zadd",
)
_STEERING_BATCHES = Part(
    "expire get hexists hget hlen hvals lrange mget sadd smembers zcard zrange", keys=("{ns}:{{lm-batches}}:*",)
)
_REPORTING = Part(keys=("{ns}:{{activity}}:*",), scripts="snakepit_bridge.delivery/ report_activity")
_WATCHING_ACTIVITY = Part("hgetall time zrange", reads=("{ns}:{{activity}}:*",))
_STALLING = Part("expire hdel hset", keys=("{ns}:stalls",))
_REFRESHING = Part(
    "get time zadd zrange",
    keys=(*_SESSION, "{ns}:refreshers", "{ns}:refreshers:*", "{ns}:sessions", "{ns}:staged"),
    reads=("{ns}:wanted",),
    channels=_SESSION,
    scripts="snakepit_bridge.snapshots.lua/ confirm confirm_all drop fence publish read",
    script_commands="persist pexpire time zadd zcard zrem zremrangebyscore",
)
# Idempotency keys belong to a client, to a job or, behind a gateway, to one of its tokens.
_OWN_KEYS = Part(keys=("{ns}:{{i:*",))
_GATEWAY = Part(keys=("{ns}:{{o:*", "{ns}:{{g:*", "{ns}:{{t:*"))

_APPLICATION = (
    _CONNECTION, _SCRIPTS, _READING, _PUBLISHING, _REPLICATING, _KEEPING, _WANTING, _LEASING, _PROGRAMS, _REGISTERING,
    _STAGING, _STARTING, _PAYLOADS, _SUBMITTING, _AWAITING, _CANCELLING, _BINDING, _AUDITED, _REQUESTING,
)  # fmt: skip

PARTS: dict[Role, tuple[Part, ...]] = {
    Role.client: (
        *_APPLICATION, _OWN_KEYS, _APPLIED, _STREAMING, _COMPOSED, _COMPOSING, _CONTROLLED, _CONTROL, _COSTS,
        _SCORING, _WATCHING_JUDGES, _DATASETS, _EVALUATING, _OPTIMIZING, _READING_RECORDS, _STEERING_BATCHES, _JOBS,
    ),
    Role.gateway: (
        *_APPLICATION, _STREAMING, _GATEWAY, _WATCHING_MESSAGES, _WATCHING_SESSIONS, _DEAD_LETTERS, _COSTS, _SCORING,
        _WATCHING_JUDGES, _DATASETS, _READING_RECORDS, _EVALUATION_RECORDS, _JOBS, _WATCHING_ACTIVITY, _APPROVING,
        _MARKING,
    ),
    Role.operator: (
        *_APPLICATION, _OWN_KEYS, _APPLIED, _CONTROLLED, _CONTROL, _DEAD_LETTERS, _OPERATING, _COSTS, _SCORING,
        _REENCRYPTING, _APPROVING, _WATCHING_ACTIVITY,
        _WATCHING_JUDGES, _DATASETS, _EVALUATING, _OPTIMIZING, _READING_RECORDS, _STEERING_BATCHES, _JOBS,
    ),
    Role.worker: (
        _CONNECTION, _SCRIPTS, _READING, _KEEPING, _APPLYING, _WANTING, _PROGRAMS, _STAGING, _PAYLOADS, _COMPOSED,
        _BINDING, _CONTROLLED, _CLAIMING, _COMMITTING, _CONFIRMING, _WRITING_PIECES, _LIMITING, _CACHING, _EVENTS,
        _STALLING, _LEASING, _CONTROLLING, _JUDGING, _RECORDING, _RUNNING_JOBS, _SUBMITTING, _AWAITING, _EVALUATING,
        _OPTIMIZING, _REGISTERING, _OWN_KEYS, _JOURNALING, _BATCHING, _REPORTING, _AUDITED, _TRIMMING, _REQUESTING,
        _MARKING,
    ),
    Role.refresher: (
        _CONNECTION, _SCRIPTS, _REFRESHING, _LEASING, _WATCHING_MESSAGES, _WATCHING_SESSIONS, _AUDITED, _MARKING,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rights:
    """The rights of a role: commands, and patterns of keys and channels."""

    commands: tuple[str, ...]
    keys: tuple[str, ...]
    reads: tuple[str, ...]
    channels: tuple[str, ...]
    selectors: tuple[tuple[str, str], ...] = ()

    def rules(self) -> list[str]:
        """Return the arguments of ``ACL SETUSER`` after the password."""
        keys = [*(f"~{key}" for key in self.keys), *(f"%R~{key}" for key in self.reads)]
        channels = [f"&{channel}" for channel in self.channels]
        root = [*keys, *channels, "-@all", *(f"+{command}" for command in self.commands)]
        selectors = [f"({' '.join(f'+{name}' for name in names.split())} %W~{key})" for names, key in self.selectors]
        return ["resetkeys", "resetchannels", *root, *selectors]


def rights_of(
    role: Role, namespace: str = DEFAULT_NAMESPACE, queue: str | None = None, *, db: int = 0, setinfo: bool = True
) -> Rights:
    """Return the rights that a role needs in a fleet.

    Args:
        role: the connecting process.
        namespace: of the fleet.
        queue: of the fleet's predictions; the namespace's default if None.
        db: the database number, which is part of Celery's channel names.
        setinfo: whether the server knows ``CLIENT SETINFO`` and ``WAITAOF``, which Redis 7.0 doesn't.
    """
    parts = PARTS[role]
    exchange_names = exchanges(check_namespace(namespace))
    names = {
        "ns": namespace,
        "queue": _literal(queue or default_queue(namespace)),
        "db": str(db),
        "control": exchange_names.get("control_exchange", "celery"),
        "events": exchange_names.get("event_exchange", "celeryev"),
    }
    commands = {command for part in parts for command in commands_of(part)} - (set() if setinfo else UNKNOWN_TO_7_0)
    keys = {pattern.format(**names) for part in parts for pattern in part.keys}
    reads = {pattern.format(**names) for part in parts for pattern in part.reads} - keys
    channels = {pattern.format(**names) for part in parts for pattern in part.channels}
    selectors = {(each, pattern.format(**names)) for part in parts for each, pattern in part.selectors}
    granted = (tuple(sorted(each)) for each in (commands, keys, reads, channels))
    return Rights(*granted, selectors=tuple(sorted(selectors)))


def setuser(user: str, rights: Rights, *, password: str = ">PASSWORD", file: bool = False) -> str:
    """Return the command that creates a user, or the equivalent line of an ACL file.

    Raises:
        ConfigurationError: the name isn't a valid user name.
    """
    if not re.fullmatch(r"[^\s\0]+", user):
        raise ConfigurationError(
            f"An ACL user's name can't contain spaces; got {user!r}. Give another one with --user."
        )
    return " ".join(["user" if file else "ACL SETUSER", user, "reset", "on", password, *rights.rules()])


def commands_of(part: Part) -> set[str]:
    """Return every command that a part uses, including those of its scripts."""
    return set(part.commands.split()) | scripted_commands(part)


def scripted_commands(part: Part) -> set[str]:
    """Return the commands that a part's scripts call."""
    return set(part.script_commands.split()) | {name for text in scripts_of(part) for name in called_by(text)}


def scripts_of(part: Part) -> list[str]:
    """Return the sources of the library's scripts that a part runs."""
    package, _, names = part.scripts.partition("/")
    return [source(package, name) for name in names.split()]


def called_by(script: str) -> set[str]:
    """Return the commands that a script calls by literal name."""
    return {name.lower() for name in re.findall(r"redis\.p?call\(\s*'([A-Za-z]+)'", script)}


def _literal(text: str) -> str:
    """Return a glob pattern that matches exactly this name."""
    return re.sub(r"([\\*?\[\]])", r"\\\1", text)
