"""``python -m snakepit_bridge.cli``, for where the console script isn't on PATH."""

from snakepit_bridge.cli import main

main()
