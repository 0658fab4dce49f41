"""What is generated under `build/`, as data: rendering returns `{path: text}` and writes nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flowerbed_topology import Resources, Site, Topology
from flowerbed_topology.zones import MEMBERS, bridge

from .project import KIT, Project

# The flwr CLI's connection to this federation, and where the CLI container finds its root certificate.
CONNECTION = "flowerbed"


def render(project: Project, topology: Topology, keys: Mapping[str, str], project_id: str) -> dict[str, str]:
    """Return every generated file: path below `build/` to text. `keys` is site to SHA-256 of its SuperNode key."""
    core = core_files(topology, keys)
    files = dict(core)
    files["core.env"] = env_file(core_env(project, topology, core, project_id))
    for site in topology.sites:
        own = site_files(topology, site)
        files |= own
        files[f"site-{site.name}.env"] = env_file(site_env(project, topology, site, own, project_id))
    # ca/pki is the operator's alone; anybody on this host may use the root certificate.
    files["flwr/ca.crt"] = (project.pki / "ca.crt").read_text()
    files["flwr/config.toml"] = flwr_config(topology, str(project.build / "flwr" / "ca.crt"))
    return files


def core_files(topology: Topology, keys: Mapping[str, str]) -> dict[str, str]:
    """Return the files mounted into the central containers."""
    return {
        "superlink/federation.json": federation_json(topology, keys),
        "edge/nginx.conf": edge_conf(topology),
        "cli/config.toml": flwr_config(topology, "/secrets/ca.crt"),
    }


def site_files(topology: Topology, site: Site) -> dict[str, str]:
    """Return the files mounted into one site's containers."""
    return {f"gateway-{site.name}/nginx.conf": gateway_conf(topology, site)}


def federation_json(topology: Topology, keys: Mapping[str, str]) -> str:
    """Return what the SuperLink knows of the topology (docs/contracts.md)."""
    content = {
        "domain": topology.domain,
        "consortium": topology.consortium,
        "sites": {
            site.name: {"organisation": site.organisation, "supernode": keys[site.name]} for site in topology.sites
        },
        "federations": {item.name: sorted(item.organisations) for item in topology.federations},
    }
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def template(name: str, values: Mapping[str, Any]) -> str:
    """Return an NGINX template filled in; a value that it lacks is an error."""
    loader = FileSystemLoader(KIT / "nginx" / "templates")
    # The output is NGINX configuration and the values are validated names, ports and addresses: nothing to escape.
    environment = Environment(  # noqa: S701
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.get_template(name).render(values)


def edge_conf(topology: Topology) -> str:
    """Return the edge's `nginx.conf`."""
    port = topology.edge.https_port
    return template(
        "edge.conf.j2",
        {
            "domain": topology.domain,
            "https_port": port,
            "http_port": topology.edge.http_port,
            "port_suffix": "" if port == 443 else f":{port}",
            "published": topology.address("edge", "edge"),
            "clients": topology.address("edge", "clients"),
            "notebooks": topology.address("edge", "notebooks"),
            "services": topology.address("edge", "services"),
            "superlink": topology.address("superlink", "services"),
            "keycloak": topology.address("keycloak", "services"),
        },
    )


def gateway_conf(topology: Topology, site: Site) -> str:
    """Return one gateway's `nginx.conf`."""
    return template(
        "gateway.conf.j2",
        {
            "listen": site.gateway_address,
            "fleet_host": f"fleet.{topology.domain}",
            "fleet_address": topology.address("edge", "clients"),
            "fleet_port": topology.edge.https_port,
        },
    )


def superlink_address(topology: Topology) -> str:
    """Return the address by which flwr knows this SuperLink, its credentials too: always with its port."""
    return f"superlink.{topology.domain}:{topology.edge.https_port}"


def flwr_config(topology: Topology, root_certificates: str) -> str:
    """Return `$FLWR_HOME/config.toml` for the flwr CLI. JSON strings are TOML strings."""
    address = superlink_address(topology)
    return (
        f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
        f"address = {json.dumps(address)}\nroot-certificates = {json.dumps(root_certificates)}\n"
    )


def digest(files: Mapping[str, str], prefix: str) -> str:
    """Return the SHA-256 of what was rendered for one container: the label by which a changed one is recreated.

    For what a container reads at its start only; the SuperLink's `federation.json` is read again when it changes.
    """
    own = {name: text for name, text in sorted(files.items()) if name.startswith(prefix + "/")}
    return hashlib.sha256(json.dumps(own).encode()).hexdigest()


def common_env(project: Project, topology: Topology, project_id: str) -> dict[str, object]:
    """Return what core and sites have in common."""
    return {
        "FLOWERBED_STACK": topology.name,
        "FLOWERBED_DOMAIN": topology.domain,
        "FLOWERBED_PROJECT_ID": project_id,
        "FLOWERBED_SECRETS": project.secrets,
        "FLOWERBED_BUILD": project.build,
        "HELD_PULLS": int(topology.rounds.held_pulls),
    }


def core_env(project: Project, topology: Topology, files: Mapping[str, str], project_id: str) -> dict[str, object]:
    """Return the interpolation variables of `compose/core.yaml`."""
    zones = ("edge", "services", "clients", "notebooks", "data", "serverapp")
    subnets = {f"NET_{zone.upper()}": topology.subnet(zone) for zone in zones}
    ranges = {f"NET_{zone.upper()}_RANGE": topology.ip_range(zone) for zone in zones}
    bridges = {f"NET_{zone.upper()}_BRIDGE": bridge(topology.subnet(zone)) for zone in zones}
    addresses = {
        f"{role.upper()}_{zone.upper()}": topology.address(role, zone)
        for role, where in MEMBERS.items()
        for zone in where
    }
    return {
        **common_env(project, topology, project_id),
        **subnets,
        **ranges,
        **bridges,
        **addresses,
        "EDGE_CONFIG": digest(files, "edge"),
        "EDGE_BIND": topology.edge.bind,
        "EDGE_HTTPS_PORT": topology.edge.https_port,
        "EDGE_HTTP_PORT": topology.edge.http_port,
        "SUPERLINK_URL": topology.url("superlink"),
        "ISSUER": topology.issuer,
        **limits("SUPERLINK", topology.superlink),
        **limits("SERVERAPP", topology.serverapp),
        "SERVERAPP_WARM": int(topology.rounds.warm_executors),
    }


def limits(prefix: str, resources: Resources) -> dict[str, object]:
    """Return a container's limits as Compose reads them."""
    return {
        f"{prefix}_MEMORY": resources.memory,
        f"{prefix}_CPUS": resources.cpus,
        f"{prefix}_PIDS": resources.pids,
    }


def site_env(
    project: Project, topology: Topology, site: Site, files: Mapping[str, str], project_id: str
) -> dict[str, object]:
    """Return the interpolation variables of `compose/site.yaml` for one site: nothing in them speaks of another."""
    return {
        **common_env(project, topology, project_id),
        "SITE": site.name,
        "SITE_NODE_CONFIG": node_config(site),
        "SITE_DATA": site.data.directory or "data",
        "SITE_SHARE": site.data.share,
        **limits("SITE", site.settings.resources),
        "SITE_WARM": int(topology.rounds.warm_executors and site.settings.warm_executor),
        "GATEWAY_CONFIG": digest(files, f"gateway-{site.name}"),
        "NET_SITE": site.subnet,
        "NET_SITE_RANGE": site.ip_range,
        "NET_SITE_BRIDGE": bridge(site.subnet),
        "NET_APP": site.app_subnet,
        "NET_APP_RANGE": site.app_ip_range,
        "NET_APP_BRIDGE": bridge(site.app_subnet),
        "GATEWAY_CLIENTS": site.gateway_clients_address,
        "GATEWAY_SITE": site.gateway_address,
        "SUPERNODE_SITE": site.supernode_address,
        "SUPERNODE_APP": site.supernode_app_address,
        "CLIENTAPP_APP": site.clientapp_address,
    }


def node_config(site: Site) -> str:
    """Return the SuperNode's `--node-config`: `key=value` pairs whose values are TOML, as JSON scalars are."""
    values = {"organisation": site.name, **site.node_config}
    return " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())


def env_file(values: Mapping[str, object]) -> str:
    """Return an env file. Single quotes keep Compose from interpolating.

    Raises:
        ValueError: a value cannot be quoted so; the model and the pre-flight checks let none through.
    """
    if bad := [key for key, value in values.items() if set(str(value)) & set("'\r\n")]:
        raise ValueError(f"{', '.join(bad)}: no env file can hold a single quote or a line break.")
    return "".join(f"{key}='{value}'\n" for key, value in values.items())
