"""The guides name every make target, every verb of the command line and every key of federation.yaml."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import click
import pytest
from typer.main import get_command

from docs_support import KIT, OPERATOR, code_spans
from flowerbed_cli.main import app

Schema = Mapping[str, Any]


def targets() -> list[str]:
    return re.findall(r"^([a-z-]+):.*## ", (KIT / "Makefile").read_text(), re.MULTILINE)


def commands(group: click.Group, prefix: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def verbs() -> list[tuple[str, click.Command]]:
    group = get_command(app)
    assert isinstance(group, click.Group)
    return list(commands(group, "flowerbed"))


def keys(schema: Schema, root: Schema, prefix: str = "") -> Iterator[str]:
    """Every key of a JSON Schema as `organisations[].site.number`; free keys of a mapping are left out."""
    if "$ref" in schema:
        yield from keys(root["$defs"][schema["$ref"].rpartition("/")[2]], root, prefix)
    for choice in (*schema.get("anyOf", ()), *schema.get("allOf", ())):
        yield from keys(choice, root, prefix)
    if "items" in schema:
        yield from keys(schema["items"], root, f"{prefix}[]")
    for name, inner in schema.get("properties", {}).items():
        path = f"{prefix}.{name}" if prefix else name
        yield path
        yield from keys(inner, root, path)


def test_there_are_targets_verbs_and_keys_to_look_for() -> None:
    schema = json.loads((KIT / "networks" / "federation.schema.json").read_text())
    found = set(keys(schema, schema))
    assert {"up", "demo", "bench"} <= set(targets())
    assert {"flowerbed up", "flowerbed ca revoke"} <= {name for name, _ in verbs()}
    assert {"name", "edge.https_port", "superlink.memory", "organisations[].site.data.directory"} <= found


@pytest.mark.parametrize("target", targets())
def test_every_make_target_is_documented(target: str) -> None:
    assert f"make {target}" in code_spans(OPERATOR) | code_spans(KIT / "README.md")


def test_no_target_is_documented_that_does_not_exist() -> None:
    named = {span.split()[1] for span in code_spans(OPERATOR) if re.fullmatch(r"make [a-z-]+( .*)?", span)}
    assert named <= set(targets())


@pytest.mark.parametrize("verb", [name for name, _ in verbs()])
def test_every_verb_is_documented(verb: str) -> None:
    assert any(re.match(rf"{re.escape(verb)}(\s|$)", span) for span in code_spans(OPERATOR))


@pytest.mark.parametrize(("verb", "option"), [
    (name, option)
    for name, command in verbs()
    for parameter in command.params
    for option in parameter.opts
    if option.startswith("--") and option != "--help"
])  # fmt: skip
def test_every_option_is_documented(verb: str, option: str) -> None:
    rows = [line for line in OPERATOR.read_text().splitlines() if f"`{verb}" in line]
    assert any(re.search(rf"`[^`]*{option}\b", row) for row in rows), rows


def test_every_key_of_the_schema_is_documented() -> None:
    schema = json.loads((KIT / "networks" / "federation.schema.json").read_text())
    assert set(keys(schema, schema)) - code_spans(OPERATOR) == set()


def test_no_key_is_documented_that_does_not_exist() -> None:
    schema = json.loads((KIT / "networks" / "federation.schema.json").read_text())
    rows = re.search(r"^## federation\.yaml\n(.*?)^## ", OPERATOR.read_text(), re.MULTILINE | re.DOTALL)
    assert rows
    cells = [line.split("|")[1] for line in rows[1].splitlines() if line.startswith("| `")]
    assert {span for cell in cells for span in re.findall(r"`([^`]+)`", cell)} <= set(keys(schema, schema))
