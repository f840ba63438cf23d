"""Staged rollouts: who gets the candidate, and whether the candidate does harm."""
