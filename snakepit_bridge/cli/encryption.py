"""``new-key`` and ``reencrypt``: the keys that encrypt what the fleet keeps in Redis."""

from __future__ import annotations

from typing import Annotated

import typer

from snakepit_bridge.cli.connection_options import RedisUrl, resolve_fleet
from snakepit_bridge.cli.output import echo, print_table
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.process.home_loop import run_blocking


def new_key(
    name: Annotated[str, typer.Argument(metavar="ID", help="Its id, such as 2026-11; 'digests' for that of digests.")],
) -> None:
    """Make a key and print it as DSPEX_ENCRYPTION_KEYS and its file have it.

    It connects to nothing, and nobody can show the key again.
    """
    from snakepit_bridge.encryption.keys import generate_key

    echo(generate_key(name))


def reencrypt(
    ctx: typer.Context,
    sessions: Annotated[list[str] | None, typer.Argument(help="Which sessions; all if none is named.")] = None,
    redis_url: RedisUrl = None,
) -> None:
    """Encrypt sessions' variables, kept states and histories by the newest key, in place: no revision is made.

    Everything else expires by itself, or is content that isn't encrypted. Run again, it changes nothing.
    """
    from snakepit_bridge.snapshots import RedisStore

    address = resolve_fleet(ctx, redis_url)
    cipher = address.encryption.cipher(address.namespace)
    if not cipher.is_on:
        raise BridgeError("There are no keys: set DSPEX_ENCRYPTION_KEYS_FILE or DSPEX_ENCRYPTION_KEYS.")
    store = RedisStore(address.url, namespace=address.namespace, cipher=cipher)

    async def run() -> list[tuple[str, str]]:
        names = sessions or sorted(await store.sessions())
        return [(name, str(await store.reencrypt(name))) for name in names]

    print_table(("session", "values"), run_blocking(run()))
