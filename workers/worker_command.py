"""The worker's entry point: Celery's ``worker`` command on the fleet's app, without Celery's other commands.

``celery -A workers.app worker`` does the same with some 15 MB more, since it loads an AMQP shell.

    python -m workers.worker_command --pool custom -c 1000 -Q predictions
"""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING

from celery.bin.base import CLIContext
from celery.bin.worker import worker

from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.redaction import redact

if TYPE_CHECKING:
    from workers.fleet_app import FleetApp


def main() -> None:
    """Run the worker; the arguments are those of ``celery worker``."""
    try:
        app = _load_app()
    except (BridgeError, ValueError) as exc:  # invalid settings
        sys.stderr.write(f"This worker can't start: {' '.join(redact(str(exc)).split())}\n")
        raise SystemExit(1) from exc
    # Celery's banner is no JSON.
    quiet = app.settings.log == "json"
    context = CLIContext(app=app, no_color=not sys.stdout.isatty(), workdir=None, quiet=quiet)
    worker.main(args=sys.argv[1:], prog_name="worker", obj=context)


def _load_app() -> FleetApp:
    """Import the app without garbage collection, which would traverse what lives for ever again and again."""
    gc.disable()
    try:
        from workers.app import app
    finally:
        gc.freeze()
        gc.enable()
    return app


if __name__ == "__main__":
    main()
