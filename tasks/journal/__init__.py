"""The journal: what LMs and tools have answered a prediction, kept until its result is committed."""
