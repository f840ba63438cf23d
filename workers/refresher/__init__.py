"""The refresher: the process that follows sessions on an Elixir server and publishes what changes there.

``service`` runs the process and divides the sessions among refreshers (``assignment``, ``leases``). Each session has a
``follower``, which reads it from Elixir (``reader``) on its own ``schedule``, or at once when ``watcher`` reports a
change, and publishes it to the store (``publisher``).
"""

from workers.refresher.service import Refresher, run_refresher
from workers.refresher.settings import RefresherSettings

__all__ = ["Refresher", "RefresherSettings", "run_refresher"]
