"""What ``doctor`` says of keys, of the way to Redis, and of who may do everything there."""

from __future__ import annotations

import ipaddress
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from snakepit_bridge.encryption.environment import read_environment, read_signing_keys
from snakepit_bridge.exceptions import BridgeError, ConfigurationError
from snakepit_bridge.protocol.checks import Check, Level
from snakepit_bridge.redis.urls import uses_tls

if TYPE_CHECKING:
    from snakepit_bridge.redis.connection import RedisConnection

_KEY_FILES = {"encryption": "DSPEX_ENCRYPTION_KEYS_FILE", "signing": "DSPEX_SIGNING_KEYS_FILE"}
_GUIDE = "see docs/how-to/encrypt.md"
SHELL_KEYS = "keys of this shell"


def check_keys() -> Iterator[Check]:
    """Check the keys that this shell's environment names."""
    for name, file in _KEY_FILES.items():
        path = os.environ.get(file)
        if path and Path(path).exists():
            yield from check_key_file(f"{name} keys", Path(path))
    try:
        encryption = read_environment()
        signing = read_signing_keys()
        ids = encryption.cipher("").key_ids
    except ConfigurationError as exc:
        yield Check(SHELL_KEYS, "fail", str(exc), f"correct the setting; {_GUIDE}")
        return
    yield Check(SHELL_KEYS, "ok", describe_keys(ids, () if signing is None else signing.ids))
    if encryption.keys is not None and encryption.accepts_plain:
        yield Check("unencrypted data", "warn", "is read, although there are keys", f"once migrated, stop it; {_GUIDE}")


def check_key_file(what: str, path: Path) -> Iterator[Check]:
    """Check that a file of keys is its owner's alone."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o007:
        yield Check(what, "fail", f"everybody on this machine may read {path} ({mode:o})", f"chmod 600 {path}")


def describe_keys(encryption: Sequence[str], signing: Sequence[str]) -> str:
    """Return which keys there are, by their ids."""
    encrypts = f"encrypts with {encryption[0]}" if encryption else "encrypts nothing"
    others = f", decrypts {', '.join(encryption[1:])} too" if encryption[1:] else ""
    return f"{encrypts}{others}; " + (f"signs with {signing[0]}" if signing else "signs nothing")


def check_workers_keys(reports: Mapping[str, Mapping[str, Any]]) -> Iterator[Check]:
    """Check that workers and this shell have the same keys, as far as both can be seen."""
    try:
        here = (list(read_environment().cipher("").key_ids), list(getattr(read_signing_keys(), "ids", ())))
    except ConfigurationError:
        here = ([], [])  # reported already
    found = {name: report["keys"] for name, report in reports.items() if "keys" in report}
    for name, keys in found.items():
        yield from (replace(Check(**check), what=f"{check['what']} of {name}") for check in keys.get("checks", ()))
    for place, kind, lack in ((0, "encryption", "can't read what the others write"), (1, "signing", "is refused")):
        ids = {"this shell": here[place], **{name: list(keys[kind]) for name, keys in found.items()}}
        without = sorted(name for name, known in ids.items() if not known)
        if len(without) == len(ids):
            continue
        if without:
            fix = f"give {', '.join(without)} the keys; see docs/how-to/{'encrypt' if place == 0 else 'sign'}.md"
            level: Level = "warn" if without == ["this shell"] else "fail"
            yield Check(f"{kind} keys", level, f"{', '.join(without)} has none, so that it {lack}", fix)
        elif len({tuple(sorted(known)) for known in ids.values()}) > 1:
            listed = "; ".join(f"{name}: {', '.join(known)}" for name, known in ids.items())
            yield Check(
                f"{kind} keys", "warn", f"they differ: {listed}", "finish the rotation: the same keys everywhere"
            )
        else:
            yield Check(f"{kind} keys", "ok", f"the same everywhere: {', '.join(next(iter(ids.values())))}")


def check_transport(what: str, url: str) -> Iterator[Check]:
    """Check that what goes to another machine is encrypted on its way."""
    if uses_tls(url) or is_local(url):
        return
    fix = "use rediss://; see docs/how-to/tls.md"
    yield Check(what, "warn", "its URL names another machine without TLS: passwords and data travel in clear", fix)


def is_local(url: str) -> bool:
    """Check whether a URL names this machine alone; a name other than localhost may resolve to anything."""
    scheme, _, rest = url.partition("://")
    if scheme in ("unix", "redis+socket"):
        return True
    hosts = rest.partition("/")[0].partition("?")[0].rpartition("@")[2].split(",")
    return all(_is_loopback(host) for host in hosts)


def _is_loopback(address: str) -> bool:
    host = address.partition("]")[0].lstrip("[") if address.startswith("[") else address.partition(":")[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("", "localhost")


async def check_default_user(connection: RedisConnection) -> list[Check]:
    """Check whether everybody who reaches Redis may do everything; nothing if this user may not ask."""
    from redis.exceptions import RedisError

    try:
        (found,) = await connection.send_each([("ACL", "GETUSER", "default")])
    except (BridgeError, RedisError):
        return []
    parts: Sequence[Any] = found or ()
    user = parts if isinstance(parts, Mapping) else dict(zip(parts[::2], parts[1::2], strict=True))
    fields = cast("dict[bytes | str, Any]", user)
    flags = {_text(flag) for flag in fields.get(b"flags", fields.get("flags", ()))}
    commands = _text(fields.get(b"commands", fields.get("commands", "")))
    if "on" not in flags or "+@all" not in commands:
        return [Check("Redis users", "ok", "the default user is restricted or off")]
    who = "anybody who reaches it" if "nopass" in flags else "whoever knows the default user's password"
    fix = "create a user for each role by dspex-fleet acl ROLE, and switch the default user off"
    return [Check("Redis users", "warn", f"{who} may do everything", fix)]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
