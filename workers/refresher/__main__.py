"""Run a refresher: ``python -m workers.refresher --bridge HOST:PORT``."""

from __future__ import annotations

import argparse
import logging
import sys

from config.settings import FleetSettings
from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.redaction import redact_logs
from workers.encryption import load_encryption
from workers.environment import read_settings
from workers.logs.setup import set_up_process_logs
from workers.refresher.service import run_refresher
from workers.refresher.settings import RefresherSettings

_SECONDS = ("poll_s", "poll_max_s", "settle_s", "heartbeat_s", "idle_s", "lease_s", "timeout_s")


def _parse_arguments(arguments: list[str] | None, fleet: FleetSettings) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m workers.refresher", description="Follow an Elixir server.")
    parser.add_argument("--bridge", required=True, help="HOST:PORT of the Elixir server")
    parser.add_argument("--sessions", default="", help="sessions to follow at all times, comma-separated")
    parser.add_argument("--redis-url", default=fleet.redis)
    parser.add_argument("--namespace", default=fleet.namespace)
    parser.add_argument("--queue", default=fleet.queue, help="queue of predictions, for metrics")
    parser.add_argument(
        "--name", default="", help="this refresher's name; a restart under the same name resumes at once"
    )
    parser.add_argument(
        "--no-watch", dest="watch", action="store_false", help="poll, even if the server supports watching"
    )
    for name in _SECONDS:
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=float, default=RefresherSettings.__dataclass_fields__[name].default)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Follow sessions until SIGTERM or SIGINT; return the exit status."""
    redact_logs()
    try:
        fleet = read_settings(FleetSettings)
        chosen = _parse_arguments(arguments, fleet)
        set_up_process_logs(fleet, logging.INFO)
        settings = RefresherSettings(
            bridge=chosen.bridge,
            redis_url=chosen.redis_url,
            namespace=chosen.namespace,
            sessions=tuple(name for name in chosen.sessions.split(",") if name),
            watch=chosen.watch,
            broker_url=fleet.broker_url.get_secret_value() if fleet.broker_url else None,
            queue=chosen.queue,
            metric_labels=fleet.metric_labels,
            health=fleet.health_address,
            encryption=load_encryption(fleet),
            **{name: getattr(chosen, name) for name in _SECONDS},
        )
        run_refresher(settings, name=chosen.name)
    except ConfigurationError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
