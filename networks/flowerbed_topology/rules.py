"""The rules between organisations, federations and networks.

Not for rules inside one of them: those are in its model.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import TypeVar

from .errors import Finding
from .organisations import Federation, Organisation
from .zones import Networks, site_capacity

_Loc = tuple[str | int, ...]
T = TypeVar("T", Organisation, Federation)


def across(
    organisations: Sequence[Organisation], federations: Sequence[Federation], networks: Networks, title: str
) -> list[Finding]:
    """Everything that is wrong between parts that are each right by themselves."""
    return [
        *_repeated(organisations, ("name",), lambda o: o.name, "organisations"),
        *_repeated(organisations, ("title",), lambda o: o.title.casefold(), "organisations"),
        *_repeated(organisations, ("site", "number"), lambda o: o.site.number, "organisations"),
        *_consortium_title(organisations, title),
        *_exhausted(organisations, networks),
        *_shared_samples(organisations),
        *_shared_directories(organisations),
        *_repeated(federations, ("name",), lambda f: f.name, "federations"),
        *_members(organisations, federations),
    ]


def _value(item: object, path: tuple[str, ...]) -> object:
    for part in path:
        item = getattr(item, part)
    return item


def _repeated(
    items: Sequence[T], path: tuple[str, ...], identity: Callable[[T], Hashable], key: str
) -> Iterator[Finding]:
    seen: dict[Hashable, int] = {}
    for index, item in enumerate(items):
        first = seen.setdefault(identity(item), index)
        if first != index:
            remedy = f"{key}[{first}] has it already, so choose another"
            yield Finding((key, index, *path), _value(item, path), remedy)


def _consortium_title(organisations: Sequence[Organisation], title: str) -> Iterator[Finding]:
    for index, organisation in enumerate(organisations):
        if organisation.title.casefold() == title.casefold():
            remedy = "the consortium has that title and its certificates would look alike, so choose another"
            yield Finding(("organisations", index, "title"), organisation.title, remedy)


def _exhausted(organisations: Sequence[Organisation], networks: Networks) -> Iterator[Finding]:
    last = site_capacity(networks)
    for index, organisation in enumerate(organisations):
        if organisation.site.number > last:
            remedy = f"networks.sites and networks.clients have room for 1 to {last}, so enlarge them or lower it"
            yield Finding(("organisations", index, "site", "number"), organisation.site.number, remedy)


def _shared_samples(organisations: Sequence[Organisation]) -> Iterator[Finding]:
    parts: dict[tuple[str, int | None], int] = {}
    shares: dict[str, int | None] = {}
    for index, organisation in enumerate(organisations):
        data = organisation.site.data
        if data.sample is None:
            continue
        loc: _Loc = ("organisations", index, "site", "data")
        first = parts.setdefault((data.sample, data.part), index)
        if first != index:
            yield Finding((*loc, "part"), data.part, f"organisations[{first}] holds that part, so choose another")
        if shares.setdefault(data.sample, data.of) != data.of:
            remedy = f"other sites cut the sample into {shares[data.sample]}, so use the same number or rows are shared"
            yield Finding((*loc, "of"), data.of, remedy)


def _shared_directories(organisations: Sequence[Organisation]) -> Iterator[Finding]:
    seen: list[tuple[PurePosixPath, int]] = []
    for index, organisation in enumerate(organisations):
        if organisation.site.data.directory is None:
            continue
        path = PurePosixPath(organisation.site.data.directory)
        for other, first in seen:
            if path.is_relative_to(other) or other.is_relative_to(path):
                remedy = f"organisations[{first}] would share rows with it ({other}), so keep the directories apart"
                yield Finding(("organisations", index, "site", "data", "directory"), str(path), remedy)
        seen.append((path, index))


def _members(organisations: Sequence[Organisation], federations: Sequence[Federation]) -> Iterator[Finding]:
    known = list(dict.fromkeys(organisation.name for organisation in organisations))
    for index, federation in enumerate(federations):
        for place, name in enumerate(federation.organisations):
            loc: _Loc = ("federations", index, "organisations", place)
            if name not in known:
                yield Finding(loc, name, f"no organisation has that name, so give one of {', '.join(known)}")
            elif name in federation.organisations[:place]:
                yield Finding(loc, name, "the federation lists it twice, so remove one")
