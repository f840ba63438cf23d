"""Rate limits for the whole fleet: which task may call which LM now, and where the others wait.

Requests and tokens per minute, concurrent calls and spend per hour are limited per LM profile and per session, over all
workers together. The state is in Redis; variables change the limits.
"""
