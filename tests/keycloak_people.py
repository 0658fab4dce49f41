"""People at Keycloak's pages, without a browser: they fill in the forms that they are shown."""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

REALM = "/realms/flowerbed"
TOKENS = f"{REALM}/protocol/openid-connect/token"


class NotLoggedInError(AssertionError):
    """The page that came instead says why."""


def form(page: httpx.Response) -> str:
    """Where the page's form goes; Keycloak's public name gives way to the address that the client has."""
    found = re.search(r'<form[^>]*\baction="([^"]+)"', page.text)
    if not found:
        raise NotLoggedInError(text(page))
    parts = urlsplit(html.unescape(found[1]))
    return f"{parts.path}?{parts.query}"


def text(page: httpx.Response) -> str:
    body = re.sub(r"<(script|style|head).*?</\1>", "", page.text, flags=re.DOTALL)
    return f"{page.status_code} " + " ".join(re.sub(r"<[^>]+>", " ", body).split())


def follow(http: httpx.Client, page: httpx.Response) -> httpx.Response:
    """Follow redirects within Keycloak."""
    while page.is_redirect and "code=" not in page.headers["location"]:
        parts = urlsplit(page.headers["location"])
        page = http.get(f"{parts.path}?{parts.query}" if parts.query else parts.path)
    return page


def sign_in(http: httpx.Client, page: httpx.Response, name: str, password: str) -> httpx.Response:
    """Fill in the login form; the page or redirect that follows."""
    answer = http.post(form(page), data={"username": name, "password": password, "credentialId": ""})
    answer = follow(http, answer)
    if 'id="kc-form-login"' in answer.text:
        raise NotLoggedInError(text(answer))
    return answer


def device_login(http: httpx.Client, name: str, password: str) -> dict[str, Any]:
    """What `flwr login` and a person do together (RFC 8628); the token endpoint's answer."""
    asked = http.post(f"{REALM}/protocol/openid-connect/auth/device", data={"client_id": "flwr", "scope": "openid"})
    assert asked.status_code == 200, asked.text
    target = urlsplit(asked.json()["verification_uri_complete"])
    page = sign_in(http, follow(http, http.get(f"{target.path}?{target.query}")), name, password)
    if 'name="accept"' not in page.text:
        raise NotLoggedInError(text(page))
    code = re.search(r'name="code" value="([^"]+)"', page.text)
    assert code, page.text
    done = follow(http, http.post(form(page), data={"code": code[1], "accept": "Yes"}))
    assert "Device Login Successful" in done.text, text(done)
    grant = "urn:ietf:params:oauth:grant-type:device_code"
    form_data = {"grant_type": grant, "client_id": "flwr", "device_code": asked.json()["device_code"]}
    answer = http.post(TOKENS, data=form_data)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def account_token(http: httpx.Client, issuer: str, name: str, password: str) -> str:
    """A token for the account API, as the account console gets one (authorization code with PKCE)."""
    verifier = base64.urlsafe_b64encode(os.urandom(48)).rstrip(b"=").decode()
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = {
        "client_id": "account-console",
        "redirect_uri": f"{issuer}/account/",
        "response_type": "code",
        "scope": "openid",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    page = follow(http, http.get(f"{REALM}/protocol/openid-connect/auth", params=query))
    page = page if page.is_redirect else sign_in(http, page, name, password)
    code = parse_qs(urlsplit(page.headers["location"]).query)["code"][0]
    data = {
        "grant_type": "authorization_code",
        "client_id": "account-console",
        "code": code,
        "redirect_uri": query["redirect_uri"],
        "code_verifier": verifier,
    }
    answer = http.post(TOKENS, data=data)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])
