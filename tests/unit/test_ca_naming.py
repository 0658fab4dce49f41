"""Subjects, serials and index lines: what OpenSSL writes, we write."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowerbed_ca import index, naming, profiles
from flowerbed_ca.errors import PlanInvalid, StoreBroken, UnknownCertificate
from flowerbed_ca.index import Entry, Index

TITLES = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=64)
# The index has seconds, and years of two digits until 2049.
TIMES = st.datetimes(datetime(1950, 1, 1), datetime(2099, 12, 31)).map(lambda t: t.replace(microsecond=0, tzinfo=UTC))
SUBJECTS = st.builds(naming.oneline, TITLES, TITLES, st.just("site"))
SERIALS = st.integers(1, 2**159).map(naming.serial_text)
ENTRIES = st.builds(
    Entry,
    st.sampled_from([index.VALID, index.EXPIRED]),
    TIMES,
    SERIALS,
    SUBJECTS,
) | st.builds(
    Entry, st.just(index.REVOKED), TIMES, SERIALS, SUBJECTS, TIMES, st.none() | st.sampled_from(index.REASONS)
)


@cache
def _key() -> profiles.ec.EllipticCurvePrivateKey:
    return profiles.new_key()


def _openssl_subject(organisation: str, path: Path) -> str:
    certificate = profiles.root(_key(), organisation, datetime.now(UTC), 1)
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    command = ["openssl", "x509", "-in", path, "-noout", "-subject", "-nameopt", "compat"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("title", "written"),
    [
        ("North", "North"),
        ("Charité", r"Charit\xC3\xA9"),
        ("a/b=c, d+e", r"a\/b=c, d\+e"),
        ('back\\slash "quoted"', 'back\\slash "quoted"'),
        ("東京大学", r"\xE6\x9D\xB1\xE4\xBA\xAC\xE5\xA4\xA7\xE5\xAD\xA6"),
        ("tab\there", r"tab\x09here"),
    ],
)
def test_subjects_are_written_as_openssl_does(title: str, written: str) -> None:
    assert naming.oneline(title, "site", "x") == f"/O={written}/OU=site/CN=x"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(organisation=TITLES)
def test_any_subject_is_written_as_the_real_openssl_does(organisation: str, tmp_path: Path) -> None:
    ours = naming.oneline(organisation, profiles.ROOT_UNIT, profiles.ROOT_NAME)
    assert _openssl_subject(organisation, tmp_path / "root.crt").rstrip("\n") == f"subject={ours}"


@given(serial=st.integers(1, 2**160))
def test_serials_are_even_upper_case_hexadecimal(serial: int) -> None:
    text = naming.serial_text(serial)
    assert len(text) % 2 == 0
    assert text == text.upper()
    assert int(text, 16) == serial


@given(entries=st.lists(ENTRIES, unique_by=lambda entry: entry.serial))
def test_an_index_survives_a_round_trip(entries: list[Entry]) -> None:
    known = Index(tuple(entries))
    assert index.parse(known.text()) == known
    assert known.text().isascii()


@given(entry=ENTRIES)
def test_the_common_name_is_found_in_any_subject(entry: Entry) -> None:
    assert entry.common_name == "site"


@given(when=TIMES)
def test_times_survive_a_round_trip(when: datetime) -> None:
    assert index.parse_time(index.time_text(when)) == when


def test_years_from_2050_have_four_digits() -> None:
    assert index.time_text(datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)) == "491231235959Z"
    assert index.time_text(datetime(2050, 1, 1, tzinfo=UTC)) == "20500101000000Z"


def test_merging_never_takes_a_revocation_back() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    valid = Entry(index.VALID, now + timedelta(days=9), "0A", "/CN=x")
    revoked = index.revoke(valid, now, "keyCompromise")
    assert Index((valid,)).merge([revoked]).entries == (revoked,)
    assert Index((revoked,)).merge([valid]).entries == (revoked,)


@pytest.mark.parametrize("line", ["V\t1\t\t01\tunknown\t/CN=x", "V\t270101000000Z\t\t01", "garbage"])
def test_a_broken_index_names_the_line(line: str) -> None:
    with pytest.raises(StoreBroken, match=r"index\.txt, line 2"):
        index.parse(f"V\t270101000000Z\t\t01\tunknown\t/CN=x\n{line}\n")


def test_an_unknown_serial_is_said_to_be_unknown() -> None:
    with pytest.raises(UnknownCertificate, match="FF is not in the index"):
        Index().find("FF")


@pytest.mark.parametrize("part", ["", "x" * 65])
def test_a_subject_has_no_empty_or_overlong_part(part: str) -> None:
    with pytest.raises(PlanInvalid, match="O of a certificate"):
        naming.name(part, "site", "x")


def test_a_common_name_is_counted_in_bytes() -> None:
    with pytest.raises(PlanInvalid, match="64 bytes"):
        naming.name("North", "site", "é" * 33)
