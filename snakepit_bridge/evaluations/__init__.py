"""Evaluations: metrics by reference, scores with their intervals, records, comparisons and gates."""
