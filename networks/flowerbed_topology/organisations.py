"""Organisations, their sites, and the federations between them.

Not for rules between organisations: those are in `topology`.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from .errors import Finding, refuse
from .names import (
    Filled,
    Flag,
    Integer,
    Label,
    Memory,
    NodeKey,
    NodeValue,
    Number,
    OrganisationName,
    Title,
)

_KIT_KEYS = ("organisation", "partition-id", "num-partitions")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Resources(_Model):
    """What a container may use at most."""

    cpus: Number = Field(default=1.0, ge=0.1, le=1024, description="CPU cores; fractions are allowed.")
    memory: Memory = Field(default="2g", description="Memory as 512m or 2g (powers of 1,024).")
    pids: Integer = Field(default=512, ge=32, le=65536, description="Processes and threads.")


class SuperLinkResources(Resources):
    """What the SuperLink may use at most: it answers with up to 160 threads, beside its own."""

    memory: Memory = Field(default="1g", description="Memory as 512m or 2g (powers of 1,024).")
    pids: Integer = Field(default=512, ge=300, le=65536, description="Processes and threads.")


def _directory(value: str) -> str:
    path = PurePosixPath(value)
    if not path.is_absolute() or ".." in path.parts or len(path.parts) < 2 or value.startswith("//"):
        raise ValueError("give the absolute path of a directory below /, with no part called '..'")
    if not value.isprintable() or set(value) & set(":$\"'\\`#"):
        raise ValueError("Docker Compose cannot mount it under that name, so leave out : $ # quotes and backslashes")
    return str(path)


class Data(_Model):
    """Where a site's rows come from: a share of the kit's sample table, or a directory on the host."""

    sample: Literal["breast-cancer"] | None = Field(default=None, description="A table that ships with the kit.")
    part: Integer | None = Field(default=None, ge=1, le=100, description="Which share of the sample, from 1.")
    of: Integer | None = Field(default=None, ge=1, le=100, description="How many shares the sample is cut into.")
    directory: Annotated[str, AfterValidator(_directory)] | None = Field(
        default=None,
        description="Absolute path on the site's host, mounted read-only into the ClientApp executor alone.",
    )

    @property
    def share(self) -> str:
        """The share of a sample as one word for people, `breast-cancer 1/3`; empty for a directory."""
        return f"{self.sample} {self.part}/{self.of}" if self.sample else ""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        refuse(self._sample_findings() if self.sample else self._directory_findings())
        return self

    def _sample_findings(self) -> list[Finding]:
        found = [
            Finding((key,), None, "say which share of the sample this site holds, such as part: 1, of: 3")
            for key in ("part", "of")
            if getattr(self, key) is None
        ]
        if self.directory is not None:
            found.append(Finding(("directory",), self.directory, "keep either sample or directory, not both"))
        if self.part is not None and self.of is not None and self.part > self.of:
            found.append(Finding(("part",), self.part, f"give a part from 1 to {self.of}, the value of `of`"))
        return found

    def _directory_findings(self) -> list[Finding]:
        if self.directory is None:
            return [Finding(("sample",), None, "give either a sample with part and of, or a directory")]
        return [
            Finding((key,), getattr(self, key), "remove it, because only a sample is cut into parts")
            for key in ("part", "of")
            if getattr(self, key) is not None
        ]


class SiteSettings(_Model):
    """One organisation's site, next to its data."""

    number: Integer = Field(
        ge=1,
        le=65535,
        description="Unique, from 1, and never given to another site again: it fixes subnets and partition.",
    )
    data: Data = Field(description="Where the rows come from.")
    resources: Resources = Field(default=Resources(), description="Limits of the ClientApp executor.")
    gpu: Flag = Field(default=False, description="Hand the host's NVIDIA GPUs to the ClientApp executor.")
    warm_executor: Flag = Field(
        default=True, description="Keep a parent with the libraries loaded, unless rounds.warm_executors is false."
    )
    node_config: dict[NodeKey, NodeValue] = Field(
        default_factory=dict, description="What ClientApps read as context.node_config, beside partition-id."
    )

    @model_validator(mode="after")
    def _rules(self) -> Self:
        refuse(
            [
                Finding(("node_config", key), self.node_config[key], "remove it, because the kit sets that key itself")
                for key in _KIT_KEYS
                if key in self.node_config
            ]
        )
        return self


class Budget(_Model):
    """What an organisation is willing to spend of (epsilon, delta) differential privacy on its rows, over all runs."""

    epsilon: Number = Field(default=10.0, ge=0, description="Epsilon over all runs; 0 allows none.")
    delta: Number = Field(
        default=1e-5, ge=0, lt=1, description="Delta over all runs; below one over the number of rows."
    )


class Organisation(_Model):
    """A member of the consortium."""

    name: OrganisationName = Field(description="DNS label; part of container, network and certificate names.")
    title: Title = Field(description="The organisation's name, O= of its certificates.")
    site: SiteSettings = Field(description="Its site.")
    budget: Budget = Field(default=Budget(), description="Its privacy budget.")


class Federation(_Model):
    """A group of organisations that train together."""

    name: Label = Field(description="DNS label; the federation is @<consortium>/<name>.")
    organisations: Annotated[tuple[str, ...], Filled] = Field(
        description="Names of its organisations.", json_schema_extra={"minItems": 1}
    )
