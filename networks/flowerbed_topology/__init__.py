"""The model of federation.yaml: what an operator writes, checked whole, and what follows from it.

Not for effects: it imports no component, opens no socket, reads no environment. `policy` says who may talk to whom.
"""

from .errors import Problem, TopologyError
from .loading import load, parse
from .organisations import Budget, Data, Federation, Organisation, Resources, SiteSettings, SuperLinkResources
from .topology import Authority, Edge, Site, Topology
from .zones import Networks, Zone

__all__ = [
    "Authority",
    "Budget",
    "Data",
    "Edge",
    "Federation",
    "Networks",
    "Organisation",
    "Problem",
    "Resources",
    "Site",
    "SiteSettings",
    "SuperLinkResources",
    "Topology",
    "TopologyError",
    "Zone",
    "load",
    "parse",
]
