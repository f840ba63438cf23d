"""The resources of one process: event loop, threads and open files, and their reset after a fork."""
