"""`flowerbed audit verify FILE`: every way to tamper with an export is noticed, and the first record concerned is named."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from audit_support import Operator, chained, later, write
from flowerbed_cli.audit import verify_file
from flowerbed_cli.audit_seal import Checkpoint, seal
from flowerbed_cli.errors import Tampered
from flowerbed_cli.main import app
from superlink_support import DAY, NOW, Authority, new_key, pem

RECORDS = [
    json.dumps({"who": f"researcher-{n}", "é": '漢"\\', "run": 2**64 - n}, ensure_ascii=n % 2 == 0) for n in range(8)
]
Lines = list[bytes]


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    return Operator(tmp_path_factory.mktemp("operator"))


@pytest.fixture(scope="module")
def whole(operator: Operator) -> Lines:
    """One export for the examples that Hypothesis makes, since no two signatures are alike."""
    return operator.export(RECORDS)


def verify(operator: Operator, lines: Lines, *options: str) -> tuple[int, str]:
    path = write(operator.root / "export.jsonl", lines)
    return verify_path(operator, path, *options)


def verify_path(operator: Operator, path: Path, *options: str) -> tuple[int, str]:
    arguments = ["--project", str(operator.root), "audit", "verify", str(path), *options]
    done = CliRunner().invoke(app, arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return 2, str(done.exception)  # `flowerbed_cli.main.main` shows it like that
    return done.exit_code, done.output


def outcome(operator: Operator, lines: Lines) -> tuple[int, str]:
    """Do what `verify` does, without the command line, for hundreds of examples."""
    try:
        return 0, verify_file(write(operator.root / "example.jsonl", lines), operator.ca, None, None)
    except Tampered as found:
        return 1, str(found)


def test_an_untouched_export_is_whole(operator: Operator) -> None:
    code, said = verify(operator, operator.export(RECORDS))
    assert code == 0
    assert "The export is whole: 8 records" in said
    assert "revoked" not in said


def test_an_export_without_records_is_whole(operator: Operator) -> None:
    assert verify(operator, operator.export([]))[0] == 0


def test_the_authoritys_certificate_alone_is_enough(operator: Operator, tmp_path: Path) -> None:
    elsewhere = tmp_path / "root.crt"
    elsewhere.write_bytes(operator.ca.read_bytes())
    path = write(tmp_path / "export.jsonl", operator.export(RECORDS))
    arguments = ["--project", str(tmp_path), "audit", "verify", str(path), "--ca", str(elsewhere)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert "give --crl for that" in " ".join(done.output.split())


def test_openssl_verifies_the_checkpoint_and_jq_the_lines(operator: Operator, tmp_path: Path) -> None:
    """The format is usable without the kit: every line is JSON, the signature is over the checkpoint's own text."""
    lines = operator.export(RECORDS)
    assert [json.loads(line)["record"] for line in lines[:-1]] == [json.loads(record) for record in RECORDS]
    end = json.loads(lines[-1])
    (tmp_path / "text").write_text(json.dumps(end["checkpoint"], separators=(",", ":")))
    (tmp_path / "signature").write_bytes(base64.b64decode(end["signature"]))
    (tmp_path / "signer.crt").write_text(end["certificate"])
    key = subprocess.run(
        ["openssl", "x509", "-in", tmp_path / "signer.crt", "-noout", "-pubkey"], capture_output=True, check=True
    )
    (tmp_path / "signer.pub").write_bytes(key.stdout)
    command = ["openssl", "dgst", "-sha384", "-verify", "signer.pub", "-signature", "signature", "text"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == "Verified OK\n"


def _set(at: int, old: bytes, new: bytes) -> Callable[[Lines], Lines]:
    def change(lines: Lines) -> Lines:
        assert old in lines[at]
        return [*lines[:at], lines[at].replace(old, new, 1), *lines[at + 1 :]]

    return change


def _rechained(lines: Lines) -> Lines:
    """Change record 3 and compute it and every later hash anew, as somebody would who has the table but no key."""
    records = [line.split(b'"record":', 1)[1].rsplit(b',"hash":', 1)[0].decode() for line in lines[:-1]]
    records[2] = '{"who":"nobody"}'
    return [*chained(records)[0], lines[-1]]


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (_set(2, b"researcher-2", b"researcher-9"), "Record 3 was changed"),
        (_set(0, b"researcher-0", b"researcher-9"), "Record 1 was changed"),
        (_set(7, b'"hash":"', b'"hash":"0'), "Record 8 was changed"),
        (_set(4, b'"seq":5', b'"seq": 5'), "Record 5 was changed"),
        (_set(4, b'"seq":5', b'"seq":05'), "Record 5 was changed"),
        (_set(4, b'"seq":5', b'"seq":3'), "Record 5 was changed: it is numbered 3"),
        (_set(0, b"{", b"\n"), "Record 1 was changed"),
        (lambda lines: [*lines[:3], *lines[4:]], "Record 4 was removed or moved: after record 3 comes record 5"),
        (lambda lines: lines[1:], "Record 1 was removed or moved: the trail begins with record 2"),
        (lambda lines: [*lines[:4], lines[2], *lines[4:]], "Record 3 was inserted or moved: after record 4"),
        (lambda lines: [*lines[:4], lines[3], *lines[4:]], "Record 4 was inserted or moved"),
        (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], "Record 3 was removed or moved"),
        (lambda lines: [*lines[:4], b"", *lines[4:]], "Record 5 was changed"),
        (lambda lines: lines[:5], "tail was cut off after record 5"),
        (lambda lines: lines[:-1], "tail was cut off after record 8"),
        (lambda lines: [*lines[:5], lines[-1]], "Record 6 was removed, with all that followed"),
        (lambda lines: [*lines, lines[0]], "Record 9 was inserted: there are lines after the checkpoint"),
        (lambda lines: [*lines, lines[-1]], "Record 9 was inserted: there are lines after the checkpoint"),
        (_rechained, "Record 8 or one before it was changed, and every hash after it"),
        (_set(8, b'"count":8', b'"count":7'), "The checkpoint was changed"),
        (_set(8, b'"time":"2', b'"time":"3'), "The checkpoint"),
        (_set(8, b"\\n", b""), "The checkpoint was changed"),
    ],
)
def test_what_was_done_to_an_export_is_named(operator: Operator, tamper: Callable[[Lines], Lines], said: str) -> None:
    code, output = verify(operator, tamper(operator.export(RECORDS)))
    assert (code, said in " ".join(output.split())) == (1, True), output
    assert len(output.splitlines()) == 1


def test_a_record_added_at_the_end_is_named(operator: Operator) -> None:
    lines = operator.export(RECORDS)
    added, _ = chained([*RECORDS, '{"who":"nobody"}'])
    assert verify(operator, [*added, lines[-1]]) == (1, "Record 9 was inserted: the checkpoint counts 8 records.\n")


def test_a_record_rewritten_with_its_own_hash_is_noticed_at_the_next(operator: Operator) -> None:
    lines = operator.export(RECORDS)
    start = bytes.fromhex(json.loads(lines[1])["hash"])
    lines[2:3] = chained(['{"who":"nobody"}'], start, 3)[0]
    code, said = verify(operator, lines)
    assert (code, said.startswith("Record 4 was changed or inserted, or record 3 was and its hash with it")) == (
        1,
        True,
    )


@settings(max_examples=300)
@given(data=st.data())
def test_any_change_of_one_byte_is_noticed_at_its_record(operator: Operator, whole: Lines, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, 8), "line")
    old = whole[at]
    place = data.draw(st.integers(0, len(old)), "place")
    byte = bytes([data.draw(st.integers(0, 255), "byte")])
    after = data.draw(st.sampled_from([0, 1]), "bytes removed")
    new = old[:place] + data.draw(st.sampled_from([byte, b""]), "bytes put there") + old[place + after :]
    code, said = outcome(operator, [*whole[:at], new, *whole[at + 1 :]])
    if new == old:
        assert code == 0
        return
    assert code == 1
    if at == 8:
        assert said.startswith(
            (
                "The checkpoint was changed",
                "The checkpoint is not signed",
                "The checkpoint's certificate",
                "Record 9 was",
            )
        ), said
        return
    # A newline put at the end of a line is an empty line before the next.
    named = at + 2 if new == old + b"\n" else at + 1
    assert said.startswith(f"Record {named} was"), said


@settings(max_examples=100)
@given(order=st.lists(st.integers(0, 8), min_size=1, max_size=12))
def test_any_other_selection_of_lines_is_noticed_at_the_first_that_is_wrong(
    operator: Operator, whole: Lines, order: list[int]
) -> None:
    code, said = outcome(operator, [whole[n] for n in order])
    if order == list(range(9)):
        assert code == 0
        return
    assert code == 1
    right = next((n for n, found in enumerate([*order, -1]) if found != n))
    wrong = (f"Record {right + 1} was", f"after record {right}", "the trail begins with record")
    assert any(words in said for words in wrong), said


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=200)
@given(
    records=st.lists(st.dictionaries(st.text(st.characters(codec="utf-8")), values), max_size=4), plain=st.booleans()
)
def test_any_record_survives_its_export(operator: Operator, records: list[dict[str, Any]], plain: bool) -> None:
    texts = [json.dumps(record, ensure_ascii=plain) for record in records]
    lines = operator.export(texts)
    assert outcome(operator, lines)[0] == 0
    assert [json.loads(line)["record"] for line in lines[:-1]] == [json.loads(text) for text in texts]


def _sealed_by(certificate: x509.Certificate, key: Any) -> Lines:
    lines, head = chained(RECORDS)
    return [*lines, seal(Checkpoint(8, head, NOW), key, certificate)]


def test_who_signed_the_checkpoint_matters(operator: Operator) -> None:
    key = new_key()
    foreign = Authority().issue(key, [], subject=operator.certificate.subject)
    cases = {
        "not signed under this certificate authority": foreign,
        "the certificate of no operator, but of ['site']": operator.issue(key, "site"),
        "was not valid when it was signed": operator.issue(key, start=NOW - 9 * DAY, end=NOW - DAY),
    }
    for said, certificate in cases.items():
        code, output = verify(operator, _sealed_by(certificate, key))
        assert (code, said in output) == (1, True), output
    code, output = verify(operator, _sealed_by(operator.certificate, key))
    assert (code, "its signature is not of what it says" in output) == (1, True)


def test_a_checkpoint_outlives_its_certificate(operator: Operator) -> None:
    """What counts is when it was signed: an export stays good for the archive."""
    key = new_key()
    ended = operator.issue(key, start=NOW - 9 * DAY, end=NOW - DAY)
    lines, head = chained(RECORDS)
    then = (NOW - 2 * DAY).replace(microsecond=0)
    assert verify(operator, [*lines, seal(Checkpoint(8, head, then), key, ended)])[0] == 0
    assert verify(operator, [*lines, operator.sealed(8, head, later(60))])[0] == 1


def test_a_revoked_signer_is_refused(operator: Operator, tmp_path: Path) -> None:
    revoked = tmp_path / "crl.pem"
    revoked.write_bytes(operator.authority.crl([operator.certificate.serial_number]))
    code, said = verify(operator, operator.export(RECORDS), "--crl", str(revoked))
    assert (code, "is revoked: ask for a new export" in said) == (1, True)


def test_an_export_goes_on_from_an_earlier_one(operator: Operator, tmp_path: Path) -> None:
    earlier = str(write(tmp_path / "earlier.jsonl", operator.export(RECORDS[:5])))
    code, said = verify(operator, operator.export(RECORDS), "--earlier", earlier)
    assert (code, "goes on from the earlier export" in " ".join(said.split())) == (0, True)
    # Written anew by whoever has the table and the operator's key, too: what the reader kept tells.
    other = ['{"who":"nobody"}', *RECORDS[1:]]
    assert "Record 5 or one before it was changed" in verify(operator, operator.export(other), "--earlier", earlier)[1]
    code, said = verify(operator, operator.export(RECORDS[:3]), "--earlier", earlier)
    assert (code, "Record 4 was removed, with all that followed" in said) == (1, True)


def test_wrong_input_is_one_sentence_and_exit_code_2(operator: Operator, tmp_path: Path) -> None:
    export = write(tmp_path / "export.jsonl", operator.export(RECORDS))
    text = tmp_path / "notes.txt"
    text.write_text("notes\nand more\n")
    foreign = tmp_path / "foreign.pem"
    foreign.write_bytes(Authority().crl([]))
    for path, options, said in (
        (tmp_path / "absent", (), "absent cannot be read: No such file or directory."),
        (tmp_path, (), "cannot be read: Is a directory."),
        (text, (), "is no export of an audit trail: give a file that flowerbed audit export wrote."),
        (export, ("--ca", str(text)), "notes.txt cannot be read as a certificate"),
        (export, ("--ca", str(tmp_path / "no.crt")), "no.crt cannot be read as a certificate"),
        (export, ("--crl", str(text)), "notes.txt cannot be read as a revocation list"),
        (export, ("--crl", str(foreign)), "is not this authority's revocation list"),
        (export, ("--earlier", str(text)), "notes.txt is no export"),
    ):
        code, output = verify_path(operator, path, *options)
        assert (code, said in output) == (2, True), output
    done = CliRunner().invoke(app, ["--project", str(operator.root), "audit", "verify", "--ca", str(export)])
    assert "give its FILE, too" in str(done.exception)


def test_the_certificate_of_another_authority_is_no_authority(operator: Operator, tmp_path: Path) -> None:
    other = tmp_path / "other.crt"
    other.write_bytes(pem(Authority().certificate))
    code, said = verify(operator, operator.export(RECORDS), "--ca", str(other))
    assert (code, "not signed under this certificate authority" in said) == (1, True)
