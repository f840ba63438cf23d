"""What crosses a process boundary: tokens, requests, results and their JSON. Nothing here does I/O."""
