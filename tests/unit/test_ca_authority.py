"""The authority from outside: what it issues, renews, refuses and revokes, and that a second call changes nothing."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ca_support import EDGE, GATEWAY, OPERATORS, PLAN, SITE, Clock, authority, snapshot
from flowerbed_ca import profiles
from flowerbed_ca.authority import Authority
from flowerbed_ca.errors import (
    AlreadyIssued,
    CaError,
    CaKeyAbsent,
    CaKeyLocked,
    Drift,
    ForeignRoot,
    PlanInvalid,
    RequestRefused,
    StoreBroken,
    StoreMissing,
    UnknownCertificate,
    WrongPassphrase,
)
from flowerbed_ca.plan import Leaf


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    return tmp_path / "ca" / "pki"


@pytest.fixture
def ca(pki: Path, clock: Clock) -> Authority:
    return authority(pki, clock)


def _certificate(pki: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((pki / "issued" / f"{name}.crt").read_bytes())


def _crl(pki: Path) -> x509.CertificateRevocationList:
    return x509.load_pem_x509_crl((pki / "crl.pem").read_bytes())


def _request(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, name: str = "somebody else") -> bytes:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    evil = x509.SubjectAlternativeName([x509.DNSName("fleet.flowerbed.localhost")])
    builder = x509.CertificateSigningRequestBuilder(subject).add_extension(evil, critical=False)
    return builder.sign(key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM)


def test_a_second_call_changes_nothing(ca: Authority, pki: Path) -> None:
    before = snapshot(pki)
    assert ca.ensure_root("Consortium") is False
    assert ca.ensure_leaves(PLAN) == []
    assert ca.ensure_crl() is False
    assert snapshot(pki) == before


def test_every_leaf_is_issued_in_the_plans_order(pki: Path, clock: Clock) -> None:
    made = Authority(pki, now=clock)
    assert made.ensure_root("Consortium") is True
    issued = made.ensure_leaves(PLAN)
    assert [(leaf.name, leaf.action) for leaf in issued] == [(leaf.name, "issued") for leaf in PLAN]


def test_leaves_are_what_the_plan_says(ca: Authority, pki: Path, clock: Clock) -> None:
    certificate = _certificate(pki, "charite")
    assert certificate.subject.rfc4514_string() == profiles.subject_of(SITE).rfc4514_string()
    assert profiles.names_of(certificate) == {x509.UniformResourceIdentifier(SITE.uris[0])}
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == timedelta(days=397)
    assert certificate.not_valid_before_utc < clock.time
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA384)
    certificate.verify_directly_issued_by(ca.root())


@pytest.mark.usefixtures("ca")
def test_no_key_is_readable_by_others(pki: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (pki / "private").iterdir()}
    assert modes.pop("ca.key") == 0o400
    assert modes == {f"{leaf.name}.key": 0o600 for leaf in PLAN}
    assert stat.S_IMODE(pki.stat().st_mode) == 0o700


def test_leaves_are_renewed_with_a_new_key_at_a_third_of_their_life(ca: Authority, pki: Path, clock: Clock) -> None:
    old = _certificate(pki, "edge")
    clock.forward(264)
    assert ca.ensure_leaves(PLAN) == []
    clock.forward(1)
    assert {leaf.action for leaf in ca.ensure_leaves(PLAN)} == {"renewed"}
    new = _certificate(pki, "edge")
    assert new.not_valid_after_utc > old.not_valid_after_utc
    assert new.public_key() != old.public_key()
    ca.ensure_crl()
    assert ca.check() == []


def test_the_ca_key_is_opened_only_when_something_is_due(ca: Authority, pki: Path, clock: Clock) -> None:
    (pki / "private" / "ca.key").rename(pki.parent / "safe")
    assert ca.ensure_root("Consortium") is False
    assert ca.ensure_leaves(PLAN) == []
    assert ca.ensure_crl() is False
    ca.status()
    clock.forward(11)
    with pytest.raises(CaKeyAbsent, match=r"ca\.key is not there"):
        ca.ensure_crl()
    assert ca.status().crl_valid


def test_without_the_ca_key_nothing_changes(ca: Authority, pki: Path) -> None:
    (pki / "private" / "ca.key").rename(pki.parent / "safe")
    before = snapshot(pki)
    for action in (lambda: ca.revoke("charite"), lambda: ca.renew(EDGE), lambda: ca.ensure_leaves((*PLAN, _other()))):
        with pytest.raises(CaKeyAbsent):
            action()
    assert snapshot(pki) == before


def _other() -> Leaf:
    return replace(GATEWAY, name="gateway-north", common_name="gateway-north")


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        (replace(SITE, organisation="Another"), "its subject is"),
        (replace(SITE, uris=("https://flowerbed.localhost/supernode/" + "ff" * 32,)), "another SuperNode key"),
        (replace(EDGE, profile="client"), "not a client certificate"),
    ],
)
def test_drift_is_refused_with_its_remedy_and_renewed_on_request(
    ca: Authority, pki: Path, changed: Leaf, found: str
) -> None:
    before = snapshot(pki)
    with pytest.raises(Drift, match=f"{found}.*flowerbed ca renew {changed.name}"):
        ca.ensure_leaves([changed])
    assert snapshot(pki) == before
    assert ca.renew(changed).action == "renewed"
    assert ca.ensure_leaves([changed]) == []


@pytest.mark.usefixtures("ca")
def test_a_changed_validity_is_drift(pki: Path, clock: Clock) -> None:
    with pytest.raises(Drift, match="valid for 397 days, planned are 90"):
        Authority(pki, leaf_days=90, now=clock).ensure_leaves(PLAN)
    with pytest.raises(Drift, match=r"ca\.crt: it is valid for 3650 days, planned are 730"):
        Authority(pki, root_days=730, now=clock).ensure_root("Consortium")


def test_another_consortium_is_drift_of_the_root(ca: Authority) -> None:
    with pytest.raises(Drift, match=r"ca\.crt: its subject is .*O=Consortium, .* asks for .*O=Another"):
        ca.ensure_root("Another")


def test_every_drifted_leaf_is_named_at_once(ca: Authority) -> None:
    with pytest.raises(Drift) as caught:
        ca.ensure_leaves([replace(leaf, organisation="Another") for leaf in PLAN])
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        f"issued/{leaf.name}.crt" for leaf in PLAN
    ]


def test_a_server_with_another_name_is_issued_again(ca: Authority) -> None:
    wider = replace(EDGE, dns=(*EDGE.dns, "hub.flowerbed.localhost"))
    assert [leaf.action for leaf in ca.ensure_leaves([wider])] == ["renewed"]


def test_leaves_end_with_the_root_at_the_latest(pki: Path, clock: Clock) -> None:
    made = Authority(pki, root_days=100, now=clock)
    made.ensure_root("Consortium")
    made.ensure_leaves([EDGE])
    assert _certificate(pki, "edge").not_valid_after_utc == made.root().not_valid_after_utc
    assert made.ensure_leaves([EDGE]) == []


def test_a_revoked_leaf_stays_out_until_it_is_issued_by_name(ca: Authority, pki: Path) -> None:
    serial = ca.status().leaves[0].serial
    assert ca.revoke("charite", "keyCompromise") == [serial]
    assert [entry.serial_number for entry in _crl(pki)] == [int(serial, 16)]
    assert ca.ensure_leaves(PLAN) == []
    assert not (pki / "issued" / "charite.crt").exists()
    assert (pki / "revoked" / "private_by_serial" / f"{serial}.key").exists()
    assert ca.issue(SITE).serial != serial
    assert ca.check() == []


def test_revoking_a_name_revokes_its_older_certificates_too(ca: Authority, pki: Path) -> None:
    first = ca.status().leaves[0].serial
    second = ca.renew(SITE).serial
    assert set(ca.revoke("charite")) == {first, second}
    assert len(_crl(pki)) == 2


def test_revoking_a_serial_leaves_the_name_its_newer_certificate(ca: Authority) -> None:
    first = ca.status().leaves[0].serial
    second = ca.renew(SITE).serial
    assert ca.revoke(first.lower(), "superseded") == [first]
    assert ca.status().leaves[0].serial == second


def test_revoking_again_changes_nothing(ca: Authority, pki: Path) -> None:
    (serial,) = ca.revoke("charite")
    before = snapshot(pki)
    assert ca.revoke(serial) == []
    assert ca.revoke("charite") == []
    assert snapshot(pki) == before


@pytest.mark.parametrize("name", ["nobody", "FF", "../ca", "/etc/passwd", ""])
def test_an_unknown_name_is_said_to_be_unknown(ca: Authority, name: str) -> None:
    with pytest.raises(UnknownCertificate, match="neither a name nor a serial"):
        ca.revoke(name)


def test_an_unknown_reason_is_refused(ca: Authority) -> None:
    with pytest.raises(RequestRefused, match="reason is 'bored'; give one of"):
        ca.revoke("charite", "bored")


def test_the_list_is_signed_again_below_twenty_days(ca: Authority, pki: Path, clock: Clock) -> None:
    clock.forward(10)
    assert ca.ensure_crl() is False
    clock.forward(0.5)
    assert ca.ensure_crl() is True
    number = _crl(pki).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    assert number == 2
    assert ca.status().crl_days_left == 30
    assert not ca.status().crl_warning


def test_status_warns_below_ten_days(ca: Authority, clock: Clock) -> None:
    clock.forward(20)
    assert not ca.status().crl_warning
    clock.forward(0.1)
    assert ca.status().crl_warning
    assert ca.status().crl_valid
    clock.forward(10)
    assert not ca.status().crl_valid


def test_sign_takes_the_public_key_alone(ca: Authority, pki: Path) -> None:
    ca.revoke("charite")
    key = profiles.new_key()
    assert ca.sign(SITE, _request(key)).action == "signed"
    certificate = _certificate(pki, "charite")
    assert certificate.public_key() == key.public_key()
    assert certificate.subject == profiles.subject_of(SITE)
    assert profiles.names_of(certificate) == {x509.UniformResourceIdentifier(SITE.uris[0])}
    assert not (pki / "private" / "charite.key").exists()


def test_what_was_signed_for_a_custodian_is_renewed_for_the_same_key(ca: Authority, pki: Path, clock: Clock) -> None:
    ca.revoke("charite")
    key = profiles.new_key()
    ca.sign(SITE, _request(key))
    clock.forward(300)
    assert [leaf.name for leaf in ca.ensure_leaves([SITE])] == ["charite"]
    assert _certificate(pki, "charite").public_key() == key.public_key()
    assert not (pki / "private" / "charite.key").exists()


def test_sign_overwrites_nothing(ca: Authority) -> None:
    with pytest.raises(AlreadyIssued, match=r"issued/charite\.crt exists"):
        ca.sign(SITE, _request(profiles.new_key()))


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)], ids=["P-256", "RSA"]
)
def test_a_csr_with_another_kind_of_key_is_refused(
    ca: Authority, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
) -> None:
    with pytest.raises(RequestRefused, match="not on P-384"):
        ca.sign(_other(), _request(key))


def test_a_csr_that_does_not_prove_its_key_is_refused(ca: Authority) -> None:
    request = x509.load_pem_x509_csr(_request(profiles.new_key())).public_bytes(serialization.Encoding.DER)
    forged = request[:-1] + bytes([request[-1] ^ 1])
    with pytest.raises(RequestRefused, match="does not fit its key"):
        ca.sign(_other(), forged)
    with pytest.raises(RequestRefused, match="not a CSR"):
        ca.sign(_other(), b"junk")


def test_issue_overwrites_nothing(ca: Authority, pki: Path) -> None:
    before = snapshot(pki)
    with pytest.raises(AlreadyIssued, match="flowerbed ca renew edge"):
        ca.issue(EDGE)
    assert snapshot(pki) == before


def test_a_key_that_is_there_already_is_used(ca: Authority, pki: Path) -> None:
    key = profiles.new_key()
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    (pki / "private" / "gateway-north.key").write_bytes(encoded)
    ca.issue(_other())
    assert _certificate(pki, "gateway-north").public_key() == key.public_key()


def test_the_key_of_a_revoked_leaf_is_never_used_again(ca: Authority, pki: Path) -> None:
    old = (pki / "private" / "charite.key").read_bytes()
    ca.revoke("charite", "keyCompromise")
    (pki / "private" / "charite.key").write_bytes(old)  # where `easyrsa revoke` leaves it
    ca.issue(SITE)
    assert (pki / "private" / "charite.key").read_bytes() != old
    assert ca.check() == []


def test_a_root_is_not_made_over_a_key_that_is_there(pki: Path) -> None:
    (pki / "private").mkdir(parents=True)
    (pki / "private" / "ca.key").write_text("precious")
    with pytest.raises(AlreadyIssued, match="exists without"):
        Authority(pki).ensure_root("Consortium")
    assert (pki / "private" / "ca.key").read_text() == "precious"


def test_where_there_is_no_authority_the_remedy_is_named(tmp_path: Path) -> None:
    for action in (Authority(tmp_path / "none").status, Authority(tmp_path / "none").ensure_crl):
        with pytest.raises(StoreMissing, match="flowerbed ca init"):
            action()


@pytest.mark.parametrize("name", ["ca", "../evil", "a/b", ".hidden", "", "a" * 101])
def test_a_name_cannot_leave_the_store(ca: Authority, name: str) -> None:
    with pytest.raises(PlanInvalid, match="cannot name a certificate"):
        ca.ensure_leaves([replace(EDGE, name=name)])


def test_names_that_no_certificate_can_carry_are_refused(ca: Authority) -> None:
    with pytest.raises(PlanInvalid, match="not usable"):
        ca.issue(replace(_other(), dns=("bücher.example",)))
    with pytest.raises(PlanInvalid, match="profile is 'root'"):
        ca.issue(replace(_other(), profile="root"))


def test_a_passphrase_protects_the_key(pki: Path) -> None:
    def wrong() -> bytes:
        return b"wrong"

    Authority(pki).ensure_root("Consortium", passphrase=b"correct horse")
    assert b"ENCRYPTED" in (pki / "private" / "ca.key").read_bytes()
    with pytest.raises(WrongPassphrase):
        Authority(pki, ask=wrong).ensure_leaves(PLAN)
    assert len(Authority(pki, ask=lambda: b"correct horse").ensure_leaves(PLAN)) == len(PLAN)


def test_without_terminal_the_passphrase_comes_from_a_file(
    pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Authority(pki).ensure_root("Consortium", passphrase=b"correct horse")
    monkeypatch.delenv("FLOWERBED_CA_PASSPHRASE_FILE", raising=False)
    with pytest.raises(CaKeyLocked, match="set FLOWERBED_CA_PASSPHRASE_FILE"):
        Authority(pki).ensure_leaves(PLAN)
    (tmp_path / "passphrase").write_text("correct horse\n")
    monkeypatch.setenv("FLOWERBED_CA_PASSPHRASE_FILE", str(tmp_path / "passphrase"))
    assert Authority(pki).ensure_leaves(PLAN)


def test_a_key_of_another_authority_is_noticed(ca: Authority, pki: Path, tmp_path: Path) -> None:
    other = authority(tmp_path / "other")
    (pki / "private" / "ca.key").unlink()
    (other.store.pki / "private" / "ca.key").rename(pki / "private" / "ca.key")
    with pytest.raises(StoreBroken, match="does not belong"):
        ca.renew(EDGE)


def test_what_the_file_system_refuses_is_a_sentence(ca: Authority, pki: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreBroken, match=r"file: .* see that the disk has room"):
        Authority(tmp_path / "file").ensure_root("Consortium")
    (pki / "crl.pem").unlink()
    (pki / "crl.pem").mkdir()
    for action in (ca.status, ca.ensure_crl, ca.check):
        with pytest.raises(StoreBroken, match=r"crl\.pem: is a directory"):
            action()


def _spoil_mode(pki: Path) -> None:
    (pki / "private" / "edge.key").chmod(0o644)


def _spoil_key(pki: Path) -> None:
    (pki / "private" / "edge.key").write_bytes((pki / "private" / "charite.key").read_bytes())


def _spoil_index(pki: Path) -> None:
    (pki / "index.txt").write_text("")


def _spoil_leaf(pki: Path) -> None:
    (pki / "issued" / "edge.crt").write_text("junk")


def _spoil_crl(pki: Path) -> None:
    (pki / "crl.pem").write_text("junk")


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (_spoil_mode, "is open to other users"),
        (_spoil_key, "does not belong to issued/edge.crt"),
        (_spoil_index, "is not in index.txt"),
        (_spoil_leaf, "is not a certificate"),
        (_spoil_crl, "is not a revocation list"),
    ],
)
def test_check_finds_what_is_wrong(ca: Authority, pki: Path, spoil: Callable[[Path], None], found: str) -> None:
    assert ca.check() == []
    spoil(pki)
    assert any(found in finding.text and finding.refused for finding in ca.check())


@pytest.mark.parametrize(
    ("critical", "usage", "identifier", "found"),
    [
        (False, True, True, "basicConstraints is not critical"),
        (True, False, True, "no keyUsage"),
        (True, True, False, "no subjectKeyIdentifier"),
    ],
)
def test_a_foreign_root_that_strict_verification_refuses_is_refused(
    pki: Path, clock: Clock, critical: bool, usage: bool, identifier: bool, found: str
) -> None:
    key = profiles.new_key()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Easy-RSA CA")])
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(clock.time)
        .not_valid_after(clock.time + timedelta(days=9))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=critical)
    )
    if usage:
        builder = builder.add_extension(profiles.key_usage("key_cert_sign", "crl_sign"), critical=True)
    if identifier:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    pki.mkdir(parents=True)
    (pki / "ca.crt").write_bytes(builder.sign(key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM))
    made = Authority(pki, now=clock)
    with pytest.raises(ForeignRoot, match=found):
        made.ensure_root("Consortium")
    (refused,) = [finding for finding in made.check() if finding.refused]
    assert found in refused.text


def test_errors_are_one_tree_and_say_what_to_do(ca: Authority) -> None:
    for error in CaError.__subclasses__():
        assert error.__doc__
    with pytest.raises(CaError, match="; "):
        ca.certificate("nobody")


@pytest.mark.usefixtures("ca")
def test_the_operators_certificate_names_no_host(pki: Path) -> None:
    certificate = _certificate(pki, OPERATORS.name)
    assert profiles.names_of(certificate) == frozenset()
    assert profiles.usages_of(certificate) == [x509.ExtendedKeyUsageOID.CLIENT_AUTH]


def test_the_passphrase_is_asked_for_once(pki: Path) -> None:
    asked: list[bytes] = []

    def ask() -> bytes:
        asked.append(b"correct horse")
        return asked[-1]

    Authority(pki).ensure_root("Consortium", passphrase=b"correct horse")
    made = Authority(pki, ask=ask)
    made.ensure_leaves(PLAN)
    made.ensure_crl()
    made.revoke("charite")
    assert len(asked) == 1


def test_the_key_of_a_new_authority_is_open_already(pki: Path) -> None:
    def nobody() -> bytes:
        raise AssertionError("asked")

    made = Authority(pki, ask=nobody)
    made.ensure_root("Consortium", passphrase=b"correct horse")
    assert made.ensure_leaves(PLAN)
    assert made.ensure_crl()
