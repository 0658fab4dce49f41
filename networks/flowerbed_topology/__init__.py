"""The model of federation.yaml: what an operator writes, checked whole, and what follows from it.

Not for effects: it imports no component, opens no socket, reads no environment. `policy` says who may talk to whom.
"""

from .accounts import ROLES, Identity, Person, Pipeline, Role
from .errors import Problem, TopologyError
from .loading import load, parse
from .organisations import Budget, Data, Federation, Organisation, Resources, SiteSettings, SuperLinkResources
from .topology import Authority, Edge, Site, Topology
from .zones import Networks, Zone

__all__ = [
    "ROLES",
    "Authority",
    "Budget",
    "Data",
    "Edge",
    "Federation",
    "Identity",
    "Networks",
    "Organisation",
    "Person",
    "Pipeline",
    "Problem",
    "Resources",
    "Role",
    "Site",
    "SiteSettings",
    "SuperLinkResources",
    "Topology",
    "TopologyError",
    "Zone",
    "load",
    "parse",
]
