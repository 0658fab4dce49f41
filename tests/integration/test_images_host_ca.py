"""The host's trusted certificates reach a build and stay out of the image: every layer is searched for a marker."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from images_support import KIT, docker, image, run, unique

pytestmark = pytest.mark.docker

MARKER = "flowerbed-marker-authority"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The host's bundle with one certificate more."""
    folder = tmp_path_factory.mktemp("ca")
    run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-nodes", "-days", "2"),
        *("-subj", f"/CN={MARKER}", "-keyout", folder / "key", "-out", folder / "marker.pem"),
    )
    host = Path(run("scripts/host.sh", "ca-bundle", cwd=KIT).stdout.strip())
    made = folder / "bundle.pem"
    made.write_text(f"{host.read_text()}\n{(folder / 'marker.pem').read_text()}")
    return made


def marker_line(bundle: Path) -> bytes:
    """A line of the marker's base64 that no other certificate has."""
    return bundle.read_text().split("-----BEGIN CERTIFICATE-----")[-1].split()[3].encode()


def layers(name: str, folder: Path) -> Iterator[bytes]:
    """The files of every layer of an image, and its configuration with the history."""
    saved = folder / "image.tar"
    docker("save", "--output", saved, name)
    with tarfile.open(saved) as outer:
        for member in outer.getmembers():
            if member.isfile() and (content := outer.extractfile(member)):
                raw = content.read()
                yield gzip.GzipFile(fileobj=io.BytesIO(raw)).read() if raw[:2] == b"\x1f\x8b" else raw


def build(tag: str, dockerfile: str, target: str, bundle: Path) -> None:
    secret = f"id=host_ca,src={bundle}"
    docker("build", "--no-cache", "--secret", secret, "-f", KIT / dockerfile, "--target", target, "-t", tag, KIT)


@pytest.mark.parametrize(("dockerfile", "target"), [("nginx/Dockerfile", "tools"), ("superlink/Dockerfile", "flower")])
def test_no_layer_holds_the_hosts_certificates(dockerfile: str, target: str, bundle: Path, tmp_path: Path) -> None:
    tag = unique(target)
    try:
        build(tag, dockerfile, target, bundle)
        assert not any(marker_line(bundle) in layer or MARKER.encode() in layer for layer in layers(tag, tmp_path))
    finally:
        docker("rmi", "--force", tag, check=False)


def test_a_build_step_sees_them_and_the_search_would_find_them(bundle: Path, tmp_path: Path) -> None:
    tag = unique("control")
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(
        f"FROM {image('tools')}\nRUN --mount=type=secret,id=host_ca cp /run/secrets/host_ca /leaked\n"
    )
    try:
        docker("build", "--no-cache", "--secret", f"id=host_ca,src={bundle}", "-f", dockerfile, "-t", tag, tmp_path)
        assert any(marker_line(bundle) in layer for layer in layers(tag, tmp_path))
    finally:
        docker("rmi", "--force", tag, check=False)


def test_nothing_secret_enters_a_build_context(tmp_path: Path) -> None:
    """A build that copies its whole context, from a clone whose private places each hold a canary."""
    clone, tag = tmp_path / "clone", unique("context")
    for private in (
        "secrets/edge/tls.key",
        "ca/pki/private/ca.key",
        "build/core.env",
        ".git/config",
        ".venv/x",
        ".cache/x",
    ):
        path = clone / private
        path.parent.mkdir(parents=True)
        path.write_text("canary")
    code = clone / "superlink" / "flowerbed_superlink" / "hooks.py"
    code.parent.mkdir(parents=True)
    code.write_text("# code")
    (clone / ".dockerignore").write_text((KIT / ".dockerignore").read_text())
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(f"FROM {image('tools')}\nCOPY . /context\n")
    try:
        docker("build", "-f", dockerfile, "-t", tag, clone)
        found = docker("run", "--rm", "--network", "none", tag, "find", "/context", "-type", "f")
        assert found == "/context/superlink/flowerbed_superlink/hooks.py"
    finally:
        docker("rmi", "--force", tag, check=False)
