"""Message delivery through the broker's Redis: keys, large payloads, dead letters and stalls."""
