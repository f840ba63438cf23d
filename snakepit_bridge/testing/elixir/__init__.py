"""A stand-in for an Elixir application that serves snakepit's bridge."""
