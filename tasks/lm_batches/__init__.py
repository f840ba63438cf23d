"""The batch tier in a worker: predictions that wait for a batch outside of it, and the collector that sends batches."""
