"""`python -m flowerbed_superlink.people list|put|stop NAME`: the list of people and pipelines, in the kit's database.

The one writer of that list; `flowerbed user` and `flowerbed up` ask it through `docker exec`. Not for passwords, roles in
Keycloak or tokens: those are the realm's. Wrong input is one sentence on standard error, exit code 2, and nothing changed.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Annotated, Any, Literal

import psycopg
from psycopg.rows import dict_row
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from flowerbed_superlink.errors import PeopleError, StartupError
from flowerbed_superlink.kit import KIT_AID, ensure_schema, open_kit

MAX_INPUT = 4 * 1024 * 1024  # characters
USAGE = "Use it as: python -m flowerbed_superlink.people list | put | stop NAME."
PEOPLE = ("person", "demo")

_LIST = """
    SELECT aid, name, kind, email, first_name, last_name, organisation, roles, federations, enabled, created_at
    FROM people ORDER BY name
"""
_PUT = """
    INSERT INTO people (aid, name, kind, email, first_name, last_name, organisation, roles, federations, enabled)
    VALUES (%(aid)s, %(name)s, %(kind)s, %(email)s, %(first_name)s, %(last_name)s, %(organisation)s, %(roles)s,
            %(federations)s, %(enabled)s)
    ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, email = excluded.email, first_name = excluded.first_name,
        last_name = excluded.last_name, organisation = excluded.organisation, roles = excluded.roles,
        federations = excluded.federations, enabled = excluded.enabled
"""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9._-]{0,70}[a-z0-9])?$")]
Text = Annotated[str, StringConstraints(max_length=200)]


class Entry(BaseModel):
    """One account, as `put` takes it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    name: Name
    kind: Literal["person", "demo", "pipeline", "kit"]
    email: Text | None = None
    first_name: Text | None = None
    last_name: Text | None = None
    organisation: Name | None = None
    roles: list[Literal["operator", "custodian", "researcher", "auditor"]]
    federations: list[Name] = Field(default_factory=list)
    enabled: bool = True


_ENTRIES = TypeAdapter(list[Entry])


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments say; return 0, or 2 with one sentence on standard error."""
    try:
        with redirect_stdout(sys.stderr):  # the trail's lines: standard output is the answer's
            answer = run(arguments)
    except (PeopleError, StartupError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except psycopg.Error as error:
        sys.stderr.write(f"The list of people cannot be reached: {' '.join(str(error).split())}\n")
        return 2
    json.dump(answer, sys.stdout, indent=2, default=str, ensure_ascii=False)
    sys.stdout.write("\n")
    return 0


def run(arguments: Sequence[str]) -> list[Any]:
    """Return what the command prints.

    Raises:
        PeopleError: the arguments or the input are wrong.
        psycopg.Error: the database is away.
    """
    match list(arguments):
        case ["list"]:
            with open_kit() as connection:
                return listed(connection)
        case ["put"]:
            entries = parse(sys.stdin.read(MAX_INPUT + 1))
            with open_kit() as connection:
                return put(connection, entries)
        case ["stop", name]:
            from flowerbed_superlink.stopping import stop

            with open_kit() as connection:
                aid = aid_of(connection, name)
            return stop(aid, name)
        case _:
            raise PeopleError(USAGE)


def listed(connection: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    """Return every account, by name; times are UTC in ISO 8601."""
    ensure_schema(connection)
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(_LIST).fetchall()
    return [row | {"created_at": row["created_at"].isoformat()} for row in rows]


def parse(text: str) -> list[Entry]:
    """Read the input of `put`.

    Raises:
        PeopleError: naming the first thing that is wrong with it.
    """
    if len(text) > MAX_INPUT:
        raise PeopleError(f"The list of people is longer than {MAX_INPUT} characters: put it in parts.")
    try:
        entries = _ENTRIES.validate_json(text)
    except ValidationError as error:
        raise PeopleError(_sentence(error)) from error
    names = [entry.name for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise PeopleError(f"The list of people names {twice[0]!r} twice: give each account once.")
    return entries


def put(connection: psycopg.Connection[Any], entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Add accounts, or change those of that name, all or none; return the whole list.

    Raises:
        PeopleError: an account would become another kind of account.
    """
    ensure_schema(connection)
    with connection.transaction():
        connection.execute("LOCK TABLE people IN SHARE ROW EXCLUSIVE MODE")
        known = {row["name"]: row for row in listed(connection)}
        for entry in entries:
            _check_kind(entry, known.get(entry.name))
            connection.execute(_PUT, entry.model_dump() | {"aid": new_aid(entry)})
        return listed(connection)


def new_aid(entry: Entry) -> str:
    """Return the id of an account that is new: random for people, the name for pipelines and the kit."""
    if entry.kind in PEOPLE:
        return f"p-{secrets.token_hex(10)}"
    return entry.name


def aid_of(connection: psycopg.Connection[Any], name: str) -> str:
    """Return the id of an account.

    Raises:
        PeopleError: there is none of that name.
    """
    ensure_schema(connection)
    row = connection.execute("SELECT aid FROM people WHERE name = %s", [name.replace("\0", "")]).fetchone()
    if row is None:
        raise PeopleError(f"There is nobody called {name!r} in the list of people.")
    return str(row[0])


def _check_kind(entry: Entry, known: dict[str, Any] | None) -> None:
    if known is not None and (known["kind"] in PEOPLE) != (entry.kind in PEOPLE):
        raise PeopleError(
            f"{entry.name!r} is a {known['kind']} and cannot become a {entry.kind}: choose another name, since runs belong "
            "to the account's id."
        )
    if known is None and entry.kind == "kit" and entry.name != KIT_AID:
        raise PeopleError(f"The kit's own account is called {KIT_AID!r}, not {entry.name!r}.")
    if known is None and entry.kind == "pipeline" and not entry.name.startswith("pipeline-"):
        raise PeopleError(f"A pipeline's account is called as its client, 'pipeline-…', not {entry.name!r}.")


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]) or "the input"
    found = json.dumps(first["input"], default=str, ensure_ascii=True)
    found = found if len(found) <= 80 else found[:79] + "…"
    return f"The list of people is wrong at {place.lstrip('.')}: {first['msg']}, found {found}."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
