"""The watchdog: what becomes of a worker whose event loop stands still.

A prediction's code can hold up the loop that all the others run on, and some of it holds the interpreter lock as well:
then nothing in the process runs any more. So a small process beside the worker watches it (``monitor``). What it looks
at is shared memory, in which each turn of the loop is counted (``beats``, ``pulse``). Whose code it is that hangs, the
stack tells (``evidence``), and what the process held is settled accordingly before it is ended (``settling``).
"""
