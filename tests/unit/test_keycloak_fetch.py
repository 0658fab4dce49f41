"""What keycloak/fetch.sh tells Maven of the proxy: a stand-in for Maven keeps the settings that it is given. No network."""

from __future__ import annotations

import hashlib
import os
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from images_support import KIT

ARCHIVE = b"no archive"
STAND_IN = """#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in
    -s) cp "$2" "$KEPT" ;;
    -DoutputDirectory=*) printf 'no archive' >"${1#*=}/keycloak-quarkus-dist-1.0.tar.gz" ;;
    esac
    shift
done
"""


def fetched(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "mvn").write_text(STAND_IN)
    (folder / "mvn").chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    return subprocess.run(
        [KIT / "keycloak" / "fetch.sh", "1.0", hashlib.sha256(ARCHIVE).hexdigest(), folder / "fetched"],
        env={"PATH": path, "KEPT": str(folder / "settings.xml"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def settings(folder: Path) -> ET.Element:
    return ET.parse(folder / "settings.xml").getroot()  # noqa: S314 - the script's own


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://proxy.example.org:3128", {"host": "proxy.example.org", "port": "3128"}),
        ("http://proxy.example.org", {"host": "proxy.example.org", "port": "80"}),
        ("https://proxy.example.org/", {"host": "proxy.example.org", "port": "443"}),
        ("proxy.example.org:8080", {"host": "proxy.example.org", "port": "8080"}),
        ("http://[2001:db8::1]:3128/", {"host": "2001:db8::1", "port": "3128"}),
        (
            "http://north%40site:a%26b%3A%3Cc%C3%A4@10.0.0.1:3128",
            {"username": "north@site", "password": "a&b:<cä", "host": "10.0.0.1", "port": "3128"},
        ),
        ("http://north:a:b@c&d@proxy:1", {"username": "north", "password": "a:b@c&d", "host": "proxy", "port": "1"}),
        ("http://north@proxy:1", {"username": "north", "password": "", "host": "proxy", "port": "1"}),
    ],
)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
def test_a_proxys_url_reaches_maven_in_its_parts(
    tmp_path: Path, variable: str, url: str, expected: dict[str, str]
) -> None:
    done = fetched(tmp_path, **{variable: url})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "fetched" / "keycloak.tar.gz").read_bytes() == ARCHIVE
    proxy = settings(tmp_path).find("proxies/proxy")
    assert proxy is not None
    assert {item.tag: item.text or "" for item in proxy} == {"protocol": "https", **expected}


def test_without_a_proxy_there_is_none(tmp_path: Path) -> None:
    done = fetched(tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(settings(tmp_path)) == []


def test_what_is_no_proxys_url_is_one_sentence_without_it(tmp_path: Path) -> None:
    done = fetched(tmp_path, HTTPS_PROXY="http://north:secret@proxy:port")
    assert done.returncode != 0
    assert done.stderr == "HTTPS_PROXY is no proxy's URL: give http://host:port or http://login:password@host:port.\n"
