"""Bulk runs: a prediction for each row of a file of any length, resumed exactly after whatever ended the client."""
