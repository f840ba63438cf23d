"""The Lua scripts of requests and batches."""
