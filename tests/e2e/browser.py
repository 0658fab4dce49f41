"""A real Chromium that trusts the federation's root as people import it, at Keycloak's pages; each page is kept as a picture."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from .federation import KIT, Federation

CHROMIUM = "/usr/bin/chromium"
PICTURES = KIT / "build" / "pictures"
PATIENCE_MS = 60_000
# A browser of a test asks nobody but the federation for anything.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass
class Person:
    """Somebody at a browser."""

    page: Page
    name: str
    password: str
    test: str
    pictures: int = 0

    def keep(self, what: str) -> None:
        """Keep a picture of what is shown."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.pictures += 1
        self.page.screenshot(path=PICTURES / f"{self.test}-{self.pictures}-{what}.png", full_page=True)

    def sign_in(self) -> None:
        """Fill in name and password."""
        self.page.get_by_label("Username", exact=False).fill(self.name)
        self.page.locator("input#password").fill(self.password)
        self.keep("sign-in")
        self.page.locator("#kc-login").click()

    def change_password(self, password: str) -> None:
        """Answer the page that wants a new password."""
        self.page.locator("input#password-new").fill(password)
        self.page.locator("input#password-confirm").fill(password)
        self.keep("new-password")
        self.page.locator("[type=submit]").first.click()
        self.password = password

    def grant(self) -> None:
        """Let the command line in, and wait until Keycloak says that it is."""
        self.page.get_by_role("button", name="Yes").wait_for()
        self.keep("grant")
        self.page.get_by_role("button", name="Yes").click()
        self.page.get_by_text("Device Login Successful").wait_for()
        self.keep("done")

    def log_in(self, link: str, new_password: str = "") -> None:
        """Go through all pages of a device login; who is signed in already is not asked again."""
        self.page.goto(link)
        self.page.locator("#kc-login").or_(self.page.get_by_role("button", name="Yes")).first.wait_for()
        if self.page.locator("input#password").count():
            self.sign_in()
        if new_password:
            self.change_password(new_password)
        self.grant()


@contextmanager
def chromium(federation: Federation, home: Path) -> Iterator[Page]:
    """Open a browser with a profile and a trust store of its own."""
    assert shutil.which(CHROMIUM), "chromium is missing: scripts/test.sh installs it"
    trust(home, federation.root / "ca" / "pki" / "ca.crt")
    rules = f"--host-resolver-rules=MAP *.{federation.topology.domain} 127.0.0.1"
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "XDG_CONFIG_HOME": str(home)}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*ARGUMENTS, rules], env=environment, timeout=PATIENCE_MS
        )
        try:
            page = browser.new_page(locale="en-GB", viewport={"width": 1100, "height": 800})
            page.set_default_timeout(PATIENCE_MS)
            yield page
        finally:
            browser.close()


def trust(home: Path, root: Path) -> None:
    """Import the root certificate, as a person does in the browser's settings."""
    store = home / ".pki" / "nssdb"
    store.mkdir(parents=True, exist_ok=True)
    certutil = ["certutil", "-d", f"sql:{store}"]
    if not (store / "cert9.db").is_file():
        subprocess.run([*certutil, "-N", "--empty-password"], check=True, capture_output=True)
    subprocess.run([*certutil, "-A", "-t", "C,,", "-n", "consortium", "-i", str(root)], check=True, capture_output=True)


def first_password(federation: Federation, name: str) -> str:
    """Return the password that the operator has for a person."""
    return (federation.root / "secrets" / "people" / f"{name}.password").read_text()


def link_in(text: str) -> str:
    """Return the address that `flwr login` prints; empty until it has."""
    found = re.search(r"https://auth\.\S+user_code=[A-Z]{4}-[A-Z]{4}", text)
    return found.group(0) if found else ""
