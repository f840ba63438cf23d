"""The watchdog: handles a worker whose event loop is blocked.

A prediction's code can block the loop that all others run on, and if it also holds the GIL, nothing else in the
process runs any more. So a small process beside the worker monitors it (``monitor``) through shared memory, in which
each iteration of the loop is counted (``beats``, ``pulse``). Stack samples identify the prediction at fault
(``evidence``), and the messages of the process are settled accordingly before it is killed (``settling``).
"""
