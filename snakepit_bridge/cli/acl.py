"""``acl``: the minimal permissions of each role, as an ACL rule for Redis or Valkey."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from snakepit_bridge.cli.connection_options import RedisUrl, resolve_fleet
from snakepit_bridge.cli.output import echo
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.redis.acl import Role, rights_of, setuser


def acl(
    ctx: typer.Context,
    role: Annotated[Role, typer.Argument(help="Role of the process that connects as this user.", show_default=False)],
    user: Annotated[
        str | None, typer.Option(metavar="NAME", help="The user's name; NAMESPACE-ROLE if not given.")
    ] = None,
    sha256: Annotated[
        str | None,
        typer.Option(metavar="HEX", help="SHA-256 of the password; >PASSWORD, for you to replace, if not given."),
    ] = None,
    file: Annotated[bool, typer.Option("--file", help="Print a line for the server's ACL file.")] = False,
    setinfo: Annotated[
        bool, typer.Option(help="Grant CLIENT SETINFO and WAITAOF, which Redis 7.0 doesn't know.")
    ] = True,
    redis_url: RedisUrl = None,
) -> None:
    """Print the ACL rule that grants a role its minimal permissions: commands, keys and channels.

    It connects to nothing. The keys are those of --namespace and --queue, the channels those of the URL's database.
    """
    chosen = resolve_fleet(ctx, redis_url)
    if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise BridgeError("--sha256 must be 64 hexadecimal digits in lower case: printf %s PASSWORD | sha256sum")
    rights = rights_of(role, chosen.namespace, chosen.queue, db=chosen.db, setinfo=setinfo)
    password = f"#{sha256}" if sha256 else ">PASSWORD"
    echo(setuser(user or f"{chosen.namespace}-{role}", rights, password=password, file=file))
