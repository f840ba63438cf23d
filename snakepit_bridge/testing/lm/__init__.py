"""An LM server that records every request it receives, with scripted answers and faults."""
