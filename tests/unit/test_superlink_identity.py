"""Reading certificates and keys out of headers: any input gives an answer or a ValueError, never another exception."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from flowerbed_superlink.identity import key_fingerprint, parse_client_certificate, parse_crl
from flowerbed_superlink.material import Material
from superlink_support import (
    Authority,
    TestSite,
    binding,
    edge_headers,
    escaped,
    fingerprint,
    new_key,
    new_site,
    pem,
    public_pem,
    subject,
    write_material,
)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def site(authority: Authority) -> TestSite:
    return new_site(authority, "charite", "Charité, Universitätsmedizin")


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory, authority: Authority, site: TestSite) -> Material:
    return Material(*write_material(tmp_path_factory.mktemp("material"), authority, [site]))


def _certificate_header(site: TestSite) -> str:
    return edge_headers(site.certificate)["X-Flowerbed-Client-Cert"]


def _key_header(site: TestSite) -> str:
    return edge_headers(None, site.key)["flwr-public-key"]


def test_a_sites_certificate_is_read_whole(authority: Authority, site: TestSite, material: Material) -> None:
    parsed = parse_client_certificate(_certificate_header(site), authority.certificate)
    assert (parsed.site, parsed.organisation) == ("charite", "Charité, Universitätsmedizin")
    assert parsed.key == fingerprint(site.key) == key_fingerprint(_key_header(site))
    assert parsed.serial == site.certificate.serial_number
    assert material.site_problem(_certificate_header(site), _key_header(site)) is None


def test_every_percent_encoding_of_the_same_pem_is_the_same(authority: Authority, site: TestSite) -> None:
    for encoded in (
        escaped(pem(site.certificate)),
        quote(pem(site.certificate)),
        quote(pem(site.certificate), safe="/+="),
    ):
        assert parse_client_certificate(encoded, authority.certificate).site == "charite"


def test_a_certificate_is_parsed_once(authority: Authority, site: TestSite) -> None:
    parse_client_certificate.cache_clear()
    for _ in range(3):
        parse_client_certificate(_certificate_header(site), authority.certificate)
    assert parse_client_certificate.cache_info()[:2] == (2, 1)


@given(header=st.one_of(st.text(max_size=200), st.binary(max_size=200).map(lambda b: b.decode("latin-1"))))
def test_no_text_is_a_certificate(material: Material, site: TestSite, header: str) -> None:
    assert material.site_problem(header, _key_header(site)) is not None


@given(header=st.one_of(st.text(max_size=200), st.binary(max_size=200).map(lambda b: base64.b64encode(b).decode())))
def test_no_text_is_a_key(material: Material, site: TestSite, header: str) -> None:
    assert material.site_problem(_certificate_header(site), header) is not None


@pytest.mark.filterwarnings("ignore:Parsed a serial number")  # a changed byte may make it negative
@given(data=st.data())
def test_no_changed_byte_that_was_signed_is_accepted(material: Material, site: TestSite, data: st.DataObject) -> None:
    der = bytearray(site.certificate.public_bytes(Encoding.DER))
    place = data.draw(st.integers(0, len(der) - 1))
    der[place] ^= data.draw(st.integers(1, 255))
    body = base64.encodebytes(bytes(der)).decode()
    header = quote(f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n")
    if material.site_problem(header, _key_header(site)) is None:
        # An ECDSA signature can be written in more than one way (the count of unused bits); what it signs cannot.
        changed = x509.load_der_x509_certificate(bytes(der))
        assert changed.tbs_certificate_bytes == site.certificate.tbs_certificate_bytes


def test_more_than_one_certificate_is_refused(authority: Authority, site: TestSite) -> None:
    twice = pem(site.certificate) * 2
    with pytest.raises(ValueError, match="exactly one"):
        parse_client_certificate(escaped(twice), authority.certificate)
    with pytest.raises(ValueError, match="exactly one"):
        parse_client_certificate(escaped(b"x\n" + pem(site.certificate)), authority.certificate)
    with pytest.raises(ValueError, match="too long"):
        parse_client_certificate("A" * 20_000, authority.certificate)


@pytest.mark.parametrize(
    "uri",
    [
        "http://flowerbed.test/supernode/" + "a" * 64,
        "https://flowerbed.test/supernode/" + "A" * 64,
        "https://flowerbed.test/supernode/" + "a" * 63,
        "https://flowerbed.test/x/supernode/" + "a" * 64,
        "https://flowerbed.test/supernode/" + "a" * 64 + "?",
    ],
)
def test_only_the_exact_form_of_the_binding_counts(authority: Authority, uri: str) -> None:
    certificate = authority.issue(
        new_key(),
        [x509.UniformResourceIdentifier(uri)],
        subject=subject("A", "a"),
        usage=ExtendedKeyUsageOID.CLIENT_AUTH,
    )
    with pytest.raises(ValueError, match="bound to exactly one"):
        parse_client_certificate(escaped(pem(certificate)), authority.certificate)


def test_two_names_in_the_subject_are_refused(authority: Authority) -> None:
    key = new_key()
    twice = x509.Name([*subject("A", "a"), x509.NameAttribute(NameOID.COMMON_NAME, "b")])
    certificate = authority.issue(key, [binding(key)], subject=twice, usage=ExtendedKeyUsageOID.CLIENT_AUTH)
    with pytest.raises(ValueError, match="exactly one CN"):
        parse_client_certificate(escaped(pem(certificate)), authority.certificate)


def test_keys_of_other_kinds_have_a_fingerprint_that_no_site_has(material: Material, site: TestSite) -> None:
    for key in (rsa.generate_private_key(65537, 2048).public_key(), ed25519.Ed25519PrivateKey.generate().public_key()):
        header = base64.b64encode(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).decode()
        assert material.site_problem(_certificate_header(site), header) is not None


def test_a_fingerprint_is_of_the_key_not_of_its_writing(site: TestSite) -> None:
    loose = public_pem(site.key).replace(b"\n", b"\r\n") + b"\n"
    assert key_fingerprint(base64.b64encode(loose).decode()) == fingerprint(site.key)


def test_a_crl_of_another_authority_is_refused(authority: Authority) -> None:
    assert parse_crl(authority.crl([7, 9]), authority.certificate).serials == {7, 9}
    with pytest.raises(ValueError, match="not signed by our authority"):
        parse_crl(Authority().crl([]), authority.certificate)
    with pytest.raises(ValueError, match="not signed by our authority"):
        parse_crl(Authority("Other").crl([]), authority.certificate)


def test_the_authority_is_read_at_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Material(tmp_path, tmp_path)
