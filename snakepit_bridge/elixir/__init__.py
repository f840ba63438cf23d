"""The wire to Elixir and back: the client of snakepit's bridge, its values, and the code generated from proto/."""
