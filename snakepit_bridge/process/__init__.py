"""One process: its event loop, its threads, its open files, and what a fork leaves of them."""
