"""Health endpoints of workers, refreshers and gateways: ``/livez``, ``/readyz`` and ``/startupz``.

``server`` answers them in threads of its own from what it is handed (``checks``). A worker's are served by its
watchdog (``worker_probes``), since a prediction's code can keep every thread of the worker from running; the worker
reports to it what only the worker knows (``worker_report``, ``reporter``). A refresher and a gateway, which run no
predictions, serve them beside their event loop (``loop_beat``).
"""
