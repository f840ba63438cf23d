"""Where messages are kept in the broker's Redis: payloads beside them, and those that were given up."""
