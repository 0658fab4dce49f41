"""The real easy-rsa 3.2 and `openssl ca` go on where the authority stops, and it goes on where they stop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from ca_support import EDGE, GATEWAY, PLAN, SITE, TITLE, Clock, EasyRsa, authority, easyrsa, run
from flowerbed_ca import profiles
from flowerbed_ca.authority import Authority
from flowerbed_ca.errors import ForeignRoot
from flowerbed_ca.plan import CLIENT, Leaf

HAND = Leaf("hand", CLIENT, TITLE, "site", "hand")


@pytest.fixture(scope="module")
def tool() -> EasyRsa:
    return easyrsa()


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    (tmp_path / "ca").mkdir()
    return tmp_path / "ca" / "pki"


@pytest.fixture
def ca(pki: Path) -> Authority:
    return authority(pki)


def _load(pki: Path, path: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((pki / path).read_bytes())


def _crl_serials(pki: Path) -> set[int]:
    return {entry.serial_number for entry in x509.load_pem_x509_crl((pki / "crl.pem").read_bytes())}


def _verify(pki: Path, *names: str) -> None:
    """OpenSSL's strict verification, with the list."""
    files = [pki / "issued" / f"{name}.crt" for name in names]
    check = ("-x509_strict", "-crl_check", "-CAfile", pki / "ca.crt", "-CRLfile", pki / "crl.pem")
    assert run("openssl", "verify", *check, *files).count(": OK") == len(names)


def _same_profile(certificate: x509.Certificate, ours: x509.Certificate) -> None:
    assert certificate.signature_hash_algorithm is not None
    assert certificate.signature_hash_algorithm.name == "sha384"
    assert profiles.is_p384(certificate.public_key())
    for kind in (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage, x509.AuthorityKeyIdentifier):
        theirs = certificate.extensions.get_extension_for_class(kind)
        assert theirs == ours.extensions.get_extension_for_class(kind)


@pytest.mark.parametrize("profile", ["server", "client"])
def test_easyrsa_issues_by_our_profiles(ca: Authority, pki: Path, tool: EasyRsa, profile: str) -> None:
    tool(pki, "--req-org=" + TITLE, "--req-ou=site", f"build-{profile}-full", "hand", "nopass")
    _same_profile(
        _load(pki, "issued/hand.crt"), _load(pki, f"issued/{'edge' if profile == 'server' else 'charite'}.crt")
    )
    assert ca.check() == []
    _verify(pki, "hand", "edge", "charite")


def test_easyrsa_signs_a_foreign_request(ca: Authority, pki: Path, tool: EasyRsa, tmp_path: Path) -> None:
    key, csr = tmp_path / "key", tmp_path / "csr"
    run("openssl", "ecparam", "-name", "secp384r1", "-genkey", "-noout", "-out", key)
    run("openssl", "req", "-new", "-utf8", "-key", key, "-subj", "/O=Charité/CN=hand", "-out", csr)
    tool(pki, "import-req", str(csr), "hand")
    tool(pki, "sign-req", "client", "hand")
    assert ca.check() == []
    assert ca.revoke("hand")
    assert "Charit\\xC3\\xA9" in (pki / "index.txt").read_text()


def test_easyrsa_renews_what_we_issued(ca: Authority, pki: Path, tool: EasyRsa) -> None:
    before = _load(pki, "issued/charite.crt")
    tool(pki, "renew", "charite")
    after = _load(pki, "issued/charite.crt")
    assert after.serial_number != before.serial_number
    assert after.public_key() == before.public_key()
    assert after.subject == before.subject
    assert profiles.names_of(after) == profiles.names_of(before)
    assert ca.ensure_leaves(PLAN) == []
    assert len(ca.revoke("charite")) == 2


@pytest.mark.parametrize("leaf", [SITE, EDGE], ids=["non-ascii", "ascii"])
def test_easyrsa_revokes_what_we_issued(ca: Authority, pki: Path, tool: EasyRsa, leaf: Leaf) -> None:
    serial = _load(pki, f"issued/{leaf.name}.crt").serial_number
    tool(pki, "revoke-issued", leaf.name, "keyCompromise")
    assert ca.ensure_crl() is True
    assert _crl_serials(pki) == {serial}
    assert ca.ensure_leaves(PLAN) == []
    assert ca.issue(leaf).action == "issued"
    _verify(pki, *(other.name for other in PLAN))


def test_easyrsas_list_is_kept_while_it_is_right(ca: Authority, pki: Path, tool: EasyRsa) -> None:
    (serial,) = ca.revoke("charite", "keyCompromise")
    tool(pki, "gen-crl")
    assert _crl_serials(pki) == {int(serial, 16)}
    assert ca.ensure_crl() is False
    ca.revoke("gateway-charite")
    numbered = x509.load_pem_x509_crl((pki / "crl.pem").read_bytes())
    assert numbered.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 3
    assert x509.load_der_x509_crl((pki / "crl.der").read_bytes()) == numbered


def test_we_revoke_what_easyrsa_issued(ca: Authority, pki: Path, tool: EasyRsa) -> None:
    tool(pki, "build-client-full", "hand", "nopass")
    serial = _load(pki, "issued/hand.crt").serial_number
    assert ca.revoke("hand", "cessationOfOperation") == [f"{serial:032X}"]
    assert _crl_serials(pki) == {serial}
    assert "revoked" in tool(pki, "--verbose", "show-crl").lower()
    tool(pki, "build-client-full", "hand", "nopass")


def test_we_renew_what_easyrsa_issued(ca: Authority, pki: Path, tool: EasyRsa) -> None:
    tool(pki, "--req-org=" + TITLE, "--req-ou=site", "build-client-full", "hand", "nopass")
    assert ca.ensure_leaves([HAND]) == []
    assert ca.renew(HAND).action == "renewed"
    _verify(pki, "hand")
    tool(pki, "revoke-issued", "hand")
    assert ca.check() != []  # the list is due
    assert ca.ensure_crl() is True


def test_an_authority_made_by_easyrsa_with_our_settings_is_adopted(pki: Path, tool: EasyRsa, tmp_path: Path) -> None:
    template = authority(tmp_path / "template").store.pki
    tool(pki, "init-pki")
    run("cp", "-r", template / "vars", template / "x509-types", pki)
    tool(pki, "--req-org=Consortium", "--req-cn=Our own root", "build-ca", "nopass")
    tool(pki, "build-server-full", "old", "nopass")
    adopted = Authority(pki, now=Clock())
    assert adopted.ensure_root("Consortium") is False
    assert len(adopted.ensure_leaves(PLAN)) == len(PLAN)
    assert adopted.ensure_crl() is True
    assert adopted.check() == []
    _verify(pki, "old", *(leaf.name for leaf in PLAN))


def test_check_lists_leaves_that_are_not_of_our_profiles(ca: Authority, pki: Path, tool: EasyRsa) -> None:
    tool(pki, "build-serverClient-full", "both", "nopass")
    tool(pki, "--use-algo=rsa", "build-client-full", "rsa", "nopass")
    found = {finding.text.partition(" ")[0]: finding for finding in ca.check()}
    assert "neither serverAuth nor clientAuth alone" in found["issued/both.crt"].text
    assert "its key is not on P-384" in found["issued/rsa.crt"].text
    assert not any(finding.refused for finding in found.values())


def test_an_authority_made_by_easyrsa_as_it_comes_is_refused(pki: Path, tool: EasyRsa) -> None:
    tool(pki, "init-pki")
    tool(pki, "build-ca", "nopass")
    with pytest.raises(ForeignRoot, match=r"basicConstraints is not critical.*not an elliptic curve key"):
        Authority(pki).ensure_root("Consortium")


def test_an_encrypted_key_of_easyrsa_is_opened(pki: Path, tool: EasyRsa, tmp_path: Path) -> None:
    template = authority(tmp_path / "template").store.pki
    tool(pki, "init-pki")
    run("cp", "-r", template / "vars", template / "x509-types", pki)
    tool(pki, "--passin=pass:secret", "--passout=pass:secret", "build-ca")
    adopted = Authority(pki, now=Clock(), ask=lambda: b"secret")
    adopted.ensure_root("Consortium")
    assert adopted.ensure_crl() is True


def test_easyrsa_opens_our_encrypted_key(pki: Path, tool: EasyRsa) -> None:
    ours = Authority(pki, ask=lambda: b"secret")
    ours.ensure_root("Consortium", passphrase=b"secret")
    ours.ensure_leaves(PLAN)
    tool(pki, "--passin=pass:secret", "revoke-issued", "charite")
    tool(pki, "--passin=pass:secret", "gen-crl")
    assert len(_crl_serials(pki)) == 1


def test_easyrsa_3_1_signs_revokes_and_makes_lists(ca: Authority, pki: Path, tmp_path: Path) -> None:
    old = easyrsa("3.1")
    run("openssl", "ecparam", "-name", "secp384r1", "-genkey", "-noout", "-out", tmp_path / "key")
    subject = ("-subj", "/O=Charité/OU=site/CN=hand")
    run("openssl", "req", "-new", "-utf8", "-key", tmp_path / "key", *subject, "-out", pki / "reqs" / "hand.req")
    old(pki, "sign-req", "client", "hand")
    _same_profile(_load(pki, "issued/hand.crt"), _load(pki, "issued/charite.crt"))
    old(pki, "revoke", "charite", "keyCompromise")
    old(pki, "gen-crl")
    assert ca.ensure_crl() is False
    assert ca.check() == []
    assert len(ca.revoke("hand")) == 1
    assert len(_crl_serials(pki)) == 2


def _openssl_ca(pki: Path, *arguments: str | Path) -> str:
    return run("openssl", "ca", "-config", "openssl.cnf", "-batch", *arguments, cwd=pki)


@pytest.mark.parametrize("leaf", PLAN, ids=lambda leaf: leaf.name)
def test_openssl_ca_revokes_every_leaf_of_ours(ca: Authority, pki: Path, leaf: Leaf) -> None:
    _openssl_ca(pki, "-revoke", pki / "issued" / f"{leaf.name}.crt", "-crl_reason", "superseded")
    _openssl_ca(pki, "-gencrl", "-out", "crl.pem")
    assert _crl_serials(pki) == {_load(pki, f"issued/{leaf.name}.crt").serial_number}
    assert ca.ensure_crl() is False
    assert ca.ensure_leaves(PLAN) == []
    assert ca.revoke(leaf.name) == []
    assert not (pki / "issued" / f"{leaf.name}.crt").exists()
    assert ca.check() == []


def test_openssl_ca_issues_and_we_go_on(ca: Authority, pki: Path, tmp_path: Path) -> None:
    key, csr = tmp_path / "key", tmp_path / "csr"
    run("openssl", "ecparam", "-name", "secp384r1", "-genkey", "-noout", "-out", key)
    run("openssl", "req", "-new", "-utf8", "-key", key, "-subj", "/O=Charité/OU=site/CN=hand", "-out", csr)
    for number in range(2):
        _openssl_ca(pki, "-in", csr, "-out", f"issued/hand{number}.crt", "-extensions", "client", "-notext")
        _same_profile(_load(pki, f"issued/hand{number}.crt"), _load(pki, "issued/charite.crt"))
    assert ca.check() == []
    assert len(ca.revoke("hand0")) == 2
    assert ca.renew(replace(GATEWAY)).action == "renewed"


def test_openssl_ca_keeps_the_number_of_the_list(ca: Authority, pki: Path) -> None:
    _openssl_ca(pki, "-gencrl", "-out", "crl.pem")
    ca.revoke("charite")
    numbered = x509.load_pem_x509_crl((pki / "crl.pem").read_bytes())
    assert numbered.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 3
