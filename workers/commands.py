"""The commands of ``dspex-fleet`` that need the fleet's own code: worker, refresher, gateway, demo, LM checks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from config.settings import FleetSettings
from snakepit_bridge.cli.connection_options import FleetAddress, RedisUrl, resolve_fleet
from snakepit_bridge.protocol.checks import Check
from snakepit_bridge.protocol.json_values import ValueBounds
from workers import PACKAGE
from workers.environment import read_settings
from workers.extras import absent_modules, check_extra
from workers.node_name import is_named, reserve_node_name
from workers.pools import Pool

if TYPE_CHECKING:
    from workers.gateway import GatewaySettings
    from workers.gateway.access.openid_settings import OpenIdSettings

ROOT = Path(__file__).parent.parent
_POLL_MAX_S = 3.0
_FILE: dict[str, Any] = {"metavar": "FILE", "exists": True, "dir_okay": False, "show_default": False}


class LogLevel(StrEnum):
    """Log levels."""

    debug = "DEBUG"
    info = "INFO"
    warning = "WARNING"
    error = "ERROR"


def worker(
    ctx: typer.Context,
    pool: Annotated[
        Pool, typer.Option(help="asyncio holds thousands at a time; prefork is for programs that execute code.")
    ] = Pool.asyncio,
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", "-c", min=1, help="Predictions at a time; what suits the pool if not given.",
                     show_default=False),
    ] = None,
    loglevel: Annotated[
        str, typer.Option("--loglevel", "-l", metavar="LEVEL", help="Least severe lines that are logged.")
    ] = "INFO",
    redis_url: RedisUrl = None,
) -> None:  # fmt: skip
    """Run a worker. Further options go to Celery's worker as they are.

    Without -n (--hostname) the first worker on a host is celery@HOST, the second celery2@HOST.
    """
    check_extra("worker", "worker")
    chosen = resolve_fleet(ctx, redis_url)
    os.environ.update({**chosen.settings(), **pool.environment})
    command = [sys.executable, "-m", f"{PACKAGE}.worker_command", "-Q", pool.queue_names(chosen.queue)]
    command += ["--pool", pool.celery_name, "-c", str(concurrency or pool.concurrency), "-l", loglevel]
    if not is_named(ctx.args):
        command += ["-n", reserve_node_name(chosen.namespace)]
    sys.stdout.flush()
    os.execv(sys.executable, [*command, *ctx.args])


def refresher(
    ctx: typer.Context,
    bridge: Annotated[
        str,
        typer.Option(
            envvar="DSPEX_BRIDGE", metavar="HOST:PORT", help="gRPC address of the Elixir server.", show_default=False
        ),
    ],
    sessions: Annotated[
        list[str] | None,
        typer.Option(
            "--session", "-s", help="Session to follow always; others are followed while predictions use them."
        ),
    ] = None,
    poll: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Time between two reads of a session in use, where Elixir isn't watched."),
    ] = 1.0,
    watch: Annotated[bool, typer.Option(help="Have Elixir tell of changes, where its server can.")] = True,
    heartbeat: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Time between two heartbeats, by which Elixir keeps the sessions in use."),
    ] = 60.0,
    idle: Annotated[
        float, typer.Option(metavar="SECONDS", help="A session that nobody has used for so long is no longer followed.")
    ] = 600.0,
    lease: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Time until another refresher takes over the sessions of one that died."),
    ] = 2.0,
    name: Annotated[
        str,
        typer.Option(
            envvar="DSPEX_REFRESHER_NAME",
            help="Unique name of this refresher: restarted under it, it goes on with its sessions at once.",
            show_default=False,
        ),
    ] = "",
    loglevel: Annotated[
        LogLevel,
        typer.Option(
            "--loglevel", "-l", metavar="LEVEL", case_sensitive=False, help="Least severe lines that are logged."
        ),
    ] = LogLevel.info,
    redis_url: RedisUrl = None,
) -> None:
    """Follow an Elixir server's sessions and publish what changes, until SIGTERM or Ctrl-C.

    Several may run; they share the sessions, and any of them can die.
    """
    from workers.encryption import load_encryption
    from workers.logs.setup import set_up_process_logs
    from workers.refresher import RefresherSettings, run_refresher

    chosen, fleet = resolve_fleet(ctx, redis_url), read_settings(FleetSettings)
    set_up_process_logs(fleet, loglevel.value)
    run_refresher(
        RefresherSettings(
            bridge=bridge,
            redis_url=chosen.url,
            namespace=chosen.namespace,
            sessions=tuple(sessions or ()),
            poll_s=poll,
            poll_max_s=max(poll, _POLL_MAX_S),
            watch=watch,
            heartbeat_s=heartbeat,
            idle_s=idle,
            lease_s=lease,
            broker_url=chosen.broker_url,
            queue=chosen.queue,
            metric_labels=read_settings(FleetSettings).metric_labels,
            health=fleet.health_address,
            encryption=load_encryption(fleet),
        ),
        name=name,
    )


def gateway(
    ctx: typer.Context,
    grpc: Annotated[
        str, typer.Option(envvar="DSPEX_GATEWAY_GRPC", metavar="HOST:PORT", help="Where gRPC is served.")
    ] = "127.0.0.1:50061",
    http: Annotated[
        str, typer.Option(envvar="DSPEX_GATEWAY_HTTP", metavar="HOST:PORT", help="Where HTTP is served.")
    ] = "127.0.0.1:8061",
    no_grpc: Annotated[bool, typer.Option("--no-grpc", help="Serve HTTP alone.")] = False,
    no_http: Annotated[bool, typer.Option("--no-http", help="Serve gRPC alone.")] = False,
    tokens: Annotated[
        Path | None,
        typer.Option(envvar="DSPEX_GATEWAY_TOKENS", help="TOML file of the tokens' hashes and grants.", **_FILE),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(
            envvar="DSPEX_GATEWAY_CERTIFICATE", help="PEM file of the server's certificate, for TLS.", **_FILE
        ),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(envvar="DSPEX_GATEWAY_KEY", help="PEM file of the certificate's key.", **_FILE)
    ] = None,
    client_ca: Annotated[
        Path | None,
        typer.Option(
            envvar="DSPEX_GATEWAY_CLIENT_CA",
            help="PEM file of the CA that clients' certificates must be signed by (mTLS).",
            **_FILE,
        ),
    ] = None,
    bridge: Annotated[
        str | None,
        typer.Option(
            envvar="DSPEX_BRIDGE",
            metavar="HOST:PORT",
            help="Elixir server that owns sessions; what is published to them goes there.",
        ),
    ] = None,
    hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            envvar="DSPEX_GATEWAY_HOSTS",
            help="Host name that HTTP requests may be for, besides localhost; * for all.",
        ),
    ] = None,
    origins: Annotated[
        list[str] | None,
        typer.Option(
            "--origin",
            envvar="DSPEX_GATEWAY_ORIGINS",
            help="Origin of web pages that may send requests (CORS), as in https://app.example.",
        ),
    ] = None,
    console: Annotated[
        bool, typer.Option(envvar="DSPEX_GATEWAY_CONSOLE", help="Serve the console to browsers, by HTTP at /.")
    ] = True,
    oidc: Annotated[
        Path | None,
        typer.Option(envvar="DSPEX_GATEWAY_OIDC", help="TOML file of the console's OpenID Connect sign-in.", **_FILE),
    ] = None,
    message_bytes: Annotated[
        int, typer.Option(envvar="DSPEX_GATEWAY_MESSAGE_BYTES", metavar="N", min=1, help="Most bytes of a request.")
    ] = 4 * 2**20,
    changes: Annotated[
        int, typer.Option(envvar="DSPEX_GATEWAY_CHANGES", metavar="N", min=1, help="Most variables in one publish.")
    ] = 5_000,
    rate: Annotated[
        float,
        typer.Option(envvar="DSPEX_GATEWAY_RATE", metavar="N", min=0.001, help="Most calls a second of one token."),
    ] = 500.0,
    streams: Annotated[
        int, typer.Option(envvar="DSPEX_GATEWAY_STREAMS", metavar="N", min=1, help="Most open streams of one token.")
    ] = 200,
    drain: Annotated[
        float,
        typer.Option(
            envvar="DSPEX_GATEWAY_DRAIN_S",
            min=0,
            metavar="SECONDS",
            help="At its end, how long calls under way may take.",
        ),
    ] = 20.0,
    loglevel: Annotated[
        LogLevel,
        typer.Option(
            "--loglevel", "-l", metavar="LEVEL", case_sensitive=False, help="Least severe lines that are logged."
        ),
    ] = LogLevel.info,
    redis_url: RedisUrl = None,
) -> None:
    """Serve variables, predictions and programs to applications by gRPC and HTTP, until SIGTERM or Ctrl-C.

    The first line on stdout is JSON with the addresses. Off loopback it asks for a certificate and tokens.
    """
    check_extra("server", "gateway")
    from workers.gateway import GatewayLimits, Grants, Tls, run_gateway

    settings = build_gateway_settings(
        resolve_fleet(ctx, redis_url),
        loglevel,
        bridge=bridge,
        grpc=None if no_grpc else grpc,
        http=None if no_http else http,
        grants=Grants.from_sources(tokens, os.environ.get("DSPEX_GATEWAY_TOKENS_TOML")),
        tls=Tls.from_files(certificate, key, client_ca),
        limits=GatewayLimits(message_bytes=message_bytes, changes=changes, calls_per_s=rate, streams=streams),
        hosts=tuple(hosts or ()),
        origins=tuple(origins or ()),
        drain_s=drain,
        console=console,
        openid=_load_openid(oidc),
    )
    run_gateway(settings, announce=typer.echo)


def _load_openid(file: Path | None) -> OpenIdSettings | None:
    if file is None:
        return None
    check_extra("oidc", "gateway --oidc")
    from workers.gateway.access.openid_settings import SECRET_VARIABLE, OpenIdSettings

    return OpenIdSettings.load(file, os.environ.get(SECRET_VARIABLE))


def build_gateway_settings(chosen: FleetAddress, loglevel: LogLevel, **own: Any) -> GatewaySettings:
    """Return the settings of a gateway of the chosen fleet, and set up the logs of this process.

    Args:
        chosen: the fleet.
        loglevel: of the logs.
        own: what the command's options say.

    Raises:
        ConfigurationError: a setting is invalid.
    """
    from workers.encryption import load_encryption, load_signing_keys
    from workers.gateway import GatewaySettings
    from workers.logs.setup import set_up_process_logs

    fleet = read_settings(FleetSettings)
    set_up_process_logs(fleet, loglevel.value)
    return GatewaySettings(
        redis_url=chosen.url,
        broker_url=chosen.broker_url,
        durability=chosen.durability,
        namespace=chosen.namespace,
        queue=chosen.queue,
        allowed_packages=fleet.allowed_packages,
        imports=fleet.imports,
        redis_timeout_s=fleet.redis_timeout_s,
        health=fleet.health_address,
        bounds=ValueBounds(fleet.value_depth, fleet.value_bytes),
        metric_labels=fleet.metric_labels,
        encryption=load_encryption(fleet),
        signing_keys=load_signing_keys(fleet),
        trace_url=fleet.trace_url or "",
        **own,
    )


def gateway_token(
    name: Annotated[str, typer.Argument(help="Whose token it is.")],
    scopes: Annotated[
        list[str],
        typer.Option("--scope", metavar="publish|predict|read|release|admin|control|content", help="What it grants."),
    ],
    sessions: Annotated[
        list[str] | None, typer.Option("--session", "-s", metavar="PATTERN", help="For which sessions, as in user-*.")
    ] = None,
) -> None:
    """Make a token: print it once on stderr, and its entry for the gateway's tokens file on stdout."""
    check_extra("server", "gateway-token")
    from workers.gateway import new_token, to_toml

    token = new_token()
    text = to_toml(name, token, scopes, sessions or ["*"])
    typer.echo(text, nl=False)
    typer.echo(f"The token, which nobody can show again: {token}", err=True)


def demo(
    ctx: typer.Context,
    lm: Annotated[
        str | None,
        typer.Option(help="provider/model or an LM profile; a stand-in on loopback if not given.", show_default=False),
    ] = None,
    questions: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="What to ask, as JSON lines.",
                                            show_default=False)] = ROOT / "examples" / "questions.jsonl",
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the answers.")] = Path("out"),
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
    pool: Annotated[Pool, typer.Option(help="Execution pool of the workers.")] = Pool.asyncio,
    bridge: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="snakepit server to own the variables; a Python stub if not given."),
    ] = None,
    in_flight: Annotated[
        int | None,
        typer.Option(min=1, help="Questions at a time; what suits the LM's first answer if not given.",
                     show_default=False),
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(
            min=1.0, metavar="SECONDS",
            help="How long each answer may take; what suits the LM's first answer if not given.", show_default=False,
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the fleet up at the end, with the console on it, until Ctrl-C.")
    ] = False,
    redis_url: RedisUrl = None,
) -> None:  # fmt: skip
    """Ask real questions while the variables change, and judge the answers by the LM's own log.

    Without --redis-url it starts an embedded server and stops it at the end.
    """
    check_extra("worker", "demo")
    check_extra("server", "demo")
    from workers.dev.demo import run_demo

    chosen = resolve_fleet(ctx, redis_url)
    # The environment names the real fleet; the demo uses it only if asked to by an option.
    url = chosen.redis_url if chosen.is_explicit else None
    code = run_demo(
        redis_url=url,
        lm=lm,
        questions=questions,
        out=out,
        workers=workers,
        pool=pool,
        bridge=bridge,
        in_flight=in_flight,
        wait_s=wait,
        keep=keep,
    )
    raise typer.Exit(code)


def check_language_models() -> Iterator[Check]:
    """Check the LM profiles of this shell's settings, where the packages of a worker are installed."""
    if absent_modules("worker"):
        return iter(())
    from workers.profile_checks import check_profiles

    return check_profiles()
