"""The refresher: the process that follows sessions on an Elixir server and publishes what changes there.

``settings`` is what it is told; ``service`` shares the sessions out among refreshers; each session has a ``follower``,
which looks at Elixir by its ``eyes``, at its ``pace``, and brings what it saw to the store by its ``ledger``.
"""

from workers.refresher.service import Refresher, run_refresher
from workers.refresher.settings import RefresherSettings

__all__ = ["Refresher", "RefresherSettings", "run_refresher"]
