"""Has NGINX parse a configuration before it is used: `nginx -t`, in the image and with the keys it will serve."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import docker
from .errors import DockerError
from .project import Project


def check(project: Project, rendered: Mapping[str, str]) -> None:
    """Parse each `nginx.conf` that differs from the one in use.

    Raises:
        DockerError: NGINX refuses one; the configuration in use is left as it is.
    """
    due = {name.split("/")[0]: text for name, text in rendered.items() if name.endswith("/nginx.conf")}
    due = {name: text for name, text in due.items() if not in_use(project, name, text)}
    with ThreadPoolExecutor(max_workers=2) as pool:
        for done in [pool.submit(parse, project, name, text) for name, text in due.items()]:
            done.result()


def in_use(project: Project, consumer: str, text: str) -> bool:
    """Return whether this very configuration was parsed and written before."""
    path = project.build / consumer / "nginx.conf"
    return path.is_file() and path.read_text() == text


def parse(project: Project, consumer: str, text: str) -> None:
    """Run `nginx -t` on one configuration.

    It also binds the addresses that it will listen on, which this container does not have: hence `ip_nonlocal_bind`.
    """
    project.build.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=project.build) as directory:
        Path(directory).chmod(0o755)
        Path(directory, "nginx.conf").write_text(text)
        image = f"flowerbed/nginx:{project.versions['FLOWERBED_VERSION']}"
        hardening = [
            "--read-only",
            "--cap-drop",
            "ALL",
            "--security-opt",
            "no-new-privileges:true",
            "--network",
            "none",
        ]
        tmpfs = ["--tmpfs", "/run/nginx:uid=9702,gid=9702,mode=0700", "--sysctl", "net.ipv4.ip_nonlocal_bind=1"]
        mounts = ["-v", f"{directory}:/config:ro", "-v", f"{project.secrets / consumer}:/secrets:ro"]
        command = ["--entrypoint", "nginx", image, "-e", "stderr", "-t", "-q", "-c", "/config/nginx.conf"]
        try:
            docker.run(["run", "--rm", *hardening, *tmpfs, *mounts, *command], timeout=60)
        except DockerError as error:
            raise DockerError(
                f"NGINX refuses the configuration of {consumer}, so nothing was changed: {error}"
            ) from error
