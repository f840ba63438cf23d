"""Limits for the whole fleet: who may call which LM now, and where a task waits that may not.

Requests and tokens per minute, calls at a time and spend per hour, each per LM profile and per session, hold over all
workers together. They are kept in Redis and steered by variables.
"""
