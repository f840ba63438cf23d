"""The client of snakepit's gRPC bridge in Elixir: calls, values, write-back, and the code generated from proto/."""
