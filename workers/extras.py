"""The extras of the distribution that a command needs, looked for before it starts."""

from __future__ import annotations

from importlib.util import find_spec

from snakepit_bridge.exceptions import ConfigurationError

_MODULES = {
    "worker": ("greenlet", "pybreaker"),
    "oidc": ("authlib", "joserfc"),
    "server": ("grpc_health", "grpc_reflection", "httptools", "starlette", "uvicorn"),
}


def absent_modules(extra: str) -> list[str]:
    """Return the modules of an extra that aren't installed."""
    return [module for module in _MODULES[extra] if find_spec(module) is None]


def check_extra(extra: str, command: str) -> None:
    """Check whether the packages of an extra are installed.

    Args:
        extra: its name in the distribution's metadata.
        command: what needs it, for the error.

    Raises:
        ConfigurationError: some aren't.
    """
    if absent := absent_modules(extra):
        raise ConfigurationError(
            f"dspex-fleet {command} needs packages that aren't installed: {', '.join(absent)}. "
            f"Install them: pip install 'dspex-fleet[{extra}]'."
        )
