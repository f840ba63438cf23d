"""The fleet's configuration: the only place that reads the environment. It imports nothing of the fleet."""
