"""The command ``console``: the console alone, on this machine, by a link that signs its reader in."""

from __future__ import annotations

import getpass
import json
import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from snakepit_bridge.cli.connection_options import RedisUrl, resolve_fleet
from workers.commands import LogLevel, build_gateway_settings
from workers.extras import check_extra


def console(
    ctx: typer.Context,
    http: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where it listens; port 0 is a free one.")] = (
        "127.0.0.1:8062"
    ),
    tokens: Annotated[
        Path | None,
        typer.Option(
            envvar="DSPEX_GATEWAY_TOKENS",
            help="TOML file of the tokens that sign visitors in; without it the link signs its reader in.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    bridge: Annotated[
        str | None,
        typer.Option(envvar="DSPEX_BRIDGE", metavar="HOST:PORT", help="Elixir server of followed sessions."),
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open it in a browser, if this is a terminal.")] = True,
    loglevel: Annotated[
        LogLevel,
        typer.Option(
            "--loglevel", "-l", metavar="LEVEL", case_sensitive=False, help="Least severe lines that are logged."
        ),
    ] = LogLevel.warning,
    redis_url: RedisUrl = None,
) -> None:
    """Serve the console alone until Ctrl-C, and print its link.

    Whoever has the link may do everything, once they allow changes. A gateway serves the console as well.
    """
    check_extra("server", "console")
    from workers.gateway import Grants, new_token, run_gateway, to_toml
    from workers.gateway.access.authentication import GrantScope

    grants = Grants.from_sources(tokens, os.environ.get("DSPEX_GATEWAY_TOKENS_TOML"))
    fragment = ""
    if not grants:
        token = new_token()
        grants = Grants.parse(to_toml(_user_name(), token, list(GrantScope), ["*"]))
        # What follows the # isn't sent to any server, so that it is in no log.
        fragment = f"#token={token}"
    settings = build_gateway_settings(
        resolve_fleet(ctx, redis_url), loglevel, bridge=bridge, grpc=None, http=http, grants=grants
    )

    def announce(addresses: str) -> None:
        link = f"http://{json.loads(addresses)['http']}/sign-in{fragment}"
        typer.echo(f"The console: {link}")
        if browser and sys.stdout.isatty():
            webbrowser.open(link)

    run_gateway(settings, announce=announce)


def _user_name() -> str:
    """Return the name that the history records as the author."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "console"
