"""Stopping the federation, and removing it. Volumes, certificates and secrets go only when that was asked for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from flowerbed_topology import Topology

from . import audit, docker, firewall, owned
from .errors import DockerError, FlowerbedError
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
        audit.kept(project).unlink(missing_ok=True)  # of the trail, which is gone with its volume
    firewall.remove_firewall(project, topology)
    remove_tree(project.build)
    if identity:
        remove_secrets(project)
        remove_tree(project.pki)


def remove_secrets(project: Project) -> None:
    """Remove what was laid out and the operator's own copies; as root in a container where this user is not root.

    Raises:
        FlowerbedError: something is left.
    """
    if os.geteuid() != 0 and project.secrets.is_dir():
        try:
            docker.one_shot(
                project,
                "find /target -mindepth 1 -delete\n",
                mounts=[(project.secrets, "/target")],
                options=["--network", "none", "--cap-add", "DAC_OVERRIDE", "--cap-add", "FOWNER"],
            )
        except DockerError as error:
            raise FlowerbedError(
                f"Keys and passwords are left in {project.secrets}, since the container that removes them failed: run "
                f"sudo rm -r {project.secrets} ({str(error).splitlines()[-1]})."
            ) from error
    remove_tree(project.secrets)


def remove_tree(path: Path) -> None:
    """Remove a directory, if it is there.

    Raises:
        FlowerbedError: something in it is left.
    """
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise FlowerbedError(f"{path} could not be removed whole ({error}): run sudo rm -r {path}.") from error
