"""Batch tiers: LM requests that wait in Redis for a provider's batch, and the batches that they went into."""
