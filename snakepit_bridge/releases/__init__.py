"""Releases: what Redis keeps of staged rollouts, from the scores of predictions to the decisions about candidates."""
