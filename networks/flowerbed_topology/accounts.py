"""Who may log in without being added by hand: pipelines, and the demo people that follow from the organisations.

Not for people: an operator adds those while the federation runs, and they are in no file. Not for what a role may do:
the SuperLink decides that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from .errors import Finding
from .names import Filled, Flag, Integer, Label
from .organisations import Federation, Organisation

Role = Literal["operator", "custodian", "researcher", "auditor"]
ROLES: tuple[Role, ...] = get_args(Role)

# Accounts and clients of the kit's own.
RESERVED = frozenset({"admin", "bootstrap", "flowerbed", "flwr", "grafana", "hub", "kit", "none"})


def _pipeline_name(value: str) -> str:
    if value in RESERVED:
        raise ValueError("the kit uses that name itself, so choose another one")
    if value.startswith("pipeline-"):
        raise ValueError("its client is called pipeline-<name> already, so leave that out")
    if value.startswith(tuple(f"{role}-" for role in ROLES)):
        raise ValueError("names that start with a role are those of demo people, so choose another one")
    return value


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Identity(_Model):
    """Logins: how long they last, and whether there are people to try the federation with."""

    demo_people: Flag = Field(
        default=False,
        description="Make one person per role and organisation, <role>-<organisation>, with passwords in secrets/people.",
    )
    access_token_minutes: Integer = Field(
        default=5,
        ge=1,
        le=60,
        description="How long an access token is valid: a disabled person is shut out after that at the latest.",
    )
    session_hours: Integer = Field(default=10, ge=1, le=168, description="How long one login lasts at most.")


class Pipeline(_Model):
    """A machine that uses the federation with credentials of its own: a nightly job, say, or CI."""

    name: Annotated[Label, AfterValidator(_pipeline_name)] = Field(description="DNS label; part of its client's name.")
    organisation: str = Field(description="Name of the organisation that answers for it.")
    roles: Annotated[tuple[Role, ...], Filled] = Field(
        default=("researcher",), description="What it may do.", json_schema_extra={"minItems": 1}
    )
    federations: Annotated[tuple[str, ...], Filled] | None = Field(
        default=None,
        description="Names of federations in which it may do it (default: all of its organisation's).",
    )

    @property
    def client(self) -> str:
        """Its client in Keycloak, which is its account's name too."""
        return f"pipeline-{self.name}"


@dataclass(frozen=True)
class Person:
    """A demo person: the role's, in one organisation and all of its federations."""

    name: str
    role: Role
    organisation: str
    federations: tuple[str, ...]


def federations_of(organisation: str, federations: Sequence[Federation]) -> tuple[str, ...]:
    """The names of the federations that an organisation is part of, in the file's order."""
    return tuple(federation.name for federation in federations if organisation in federation.organisations)


def demo_people(organisations: Sequence[Organisation], federations: Sequence[Federation]) -> Iterator[Person]:
    """One person for each organisation and role."""
    for organisation in organisations:
        for role in ROLES:
            own = federations_of(organisation.name, federations)
            yield Person(f"{role}-{organisation.name}", role, organisation.name, own)


def findings(
    pipelines: Sequence[Pipeline], organisations: Sequence[Organisation], federations: Sequence[Federation]
) -> Iterator[Finding]:
    """Everything that is wrong between pipelines, and between one and its organisation and federations."""
    seen: dict[str, int] = {}
    for index, pipeline in enumerate(pipelines):
        first = seen.setdefault(pipeline.name, index)
        if first != index:
            remedy = f"pipelines[{first}] has it already, so choose another"
            yield Finding(("pipelines", index, "name"), pipeline.name, remedy)
        for place, role in enumerate(pipeline.roles):
            if role in pipeline.roles[:place]:
                yield Finding(("pipelines", index, "roles", place), role, "the pipeline has it twice, so remove one")
        yield from _membership(index, pipeline, organisations, federations)


def _membership(
    index: int, pipeline: Pipeline, organisations: Sequence[Organisation], federations: Sequence[Federation]
) -> Iterator[Finding]:
    names = [organisation.name for organisation in organisations]
    if pipeline.organisation not in names:
        remedy = f"no organisation has that name, so give one of {', '.join(names)}"
        yield Finding(("pipelines", index, "organisation"), pipeline.organisation, remedy)
        return
    own = federations_of(pipeline.organisation, federations)
    if not own:
        remedy = "it is part of no federation, so add it to one"
        yield Finding(("pipelines", index, "organisation"), pipeline.organisation, remedy)
        return
    known = [federation.name for federation in federations]
    for place, name in enumerate(pipeline.federations or ()):
        loc = ("pipelines", index, "federations", place)
        if name not in known:
            yield Finding(loc, name, f"no federation has that name, so give one of {', '.join(known)}")
        elif name not in own:
            yield Finding(loc, name, f"{pipeline.organisation} is not part of it, so give one of {', '.join(own)}")
        elif pipeline.federations and name in pipeline.federations[:place]:
            yield Finding(loc, name, "the pipeline lists it twice, so remove one")
