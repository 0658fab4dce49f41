"""Who may do what in which federation: until people log in, Flower's own single federation without accounts.

Not for SuperNodes, which the gate binds to their sites.
"""

from __future__ import annotations

from flwr.superlink.federation import NoOpFederationManager


class FlowerbedFederationManager(NoOpFederationManager):
    """Flower's manager without login, under a name of ours so that start-up can assert that the hook is in force."""
