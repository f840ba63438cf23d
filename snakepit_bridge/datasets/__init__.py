"""Datasets: named, versioned lists of examples, and the recorder that makes them from finished predictions."""
