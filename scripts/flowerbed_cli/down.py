"""Stopping the federation, and removing it. Volumes, certificates and secrets go only when that was asked for."""

from __future__ import annotations

import os
import shutil

from flowerbed_topology import Topology

from . import docker, firewall, owned
from .project import Project
from .up import in_parallel, project_id


def down(project: Project, topology: Topology) -> None:
    """Stop and remove the containers and networks, sites first, so that a round in flight can be handed in."""
    if not (project.build / "core.env").is_file():
        return remove_leftovers(topology)
    in_parallel(
        lambda site: docker.run(docker.compose(project, site.name, "down", "--remove-orphans")),
        [site for site in topology.sites if (project.build / f"site-{site.name}.env").is_file()],
    )
    docker.run(docker.compose(project, "core", "down", "--remove-orphans"))
    return remove_leftovers(topology)


def remove_leftovers(topology: Topology) -> None:
    """Remove containers and networks of the stack that Compose no longer knows, such as those of a departed site."""
    if left := [item["Id"] for item in docker.containers(topology.name)]:
        docker.run(["rm", "-f", *left])
    for network in owned.all_networks():
        if owned.is_own_network(topology.name, network):
            docker.run(["network", "rm", network["Id"]])


def clean(project: Project, topology: Topology, *, identity: bool) -> None:
    """Remove containers, networks, volumes, firewall table and rendered files; with `identity` secrets and CA, too."""
    down(project, topology)
    mine = project_id(project)
    if mine and (volumes := owned.own_volumes(topology.name, mine)):
        docker.run(["volume", "rm", *volumes])
    firewall.remove_firewall(project, topology)
    shutil.rmtree(project.build, ignore_errors=True)
    if identity:
        remove_secrets(project)
        shutil.rmtree(project.pki, ignore_errors=True)


def remove_secrets(project: Project) -> None:
    """Remove what was laid out and the operator's own copies; as root in a container where this user is not root."""
    if os.geteuid() != 0 and project.secrets.is_dir():
        docker.one_shot(
            project,
            "find /target -mindepth 1 -delete\n",
            mounts=[(project.secrets, "/target")],
            options=["--network", "none", "--cap-add", "DAC_OVERRIDE"],
        )
    shutil.rmtree(project.secrets, ignore_errors=True)
