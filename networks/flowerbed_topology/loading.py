"""Reads a federation.yaml, and turns everything that is wrong with it into sentences.

Not for rules: those are in the models.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from yaml.composer import Composer

from .errors import Problem, RuleError, TopologyError, show_key, show_text, show_value
from .topology import Topology

Loc = tuple[str | int, ...]

# pydantic's error types, as what to do; `{name}` is filled from the error's context.
_REMEDIES = {
    "missing": "add it",
    "bool_type": "write true or false",
    "int_type": "give a whole number",
    "float_type": "give a number",
    "float_parsing": "give a number",
    "finite_number": "give a finite number",
    "string_type": "give a text, in quotes if YAML reads it as something else",
    "string_too_long": "give at most {max_length} characters",
    "string_too_short": "give at least {min_length} characters",
    "tuple_type": "give a list",
    "dict_type": "give a mapping of keys to values",
    "too_short": "give at least {min_length} of them",
    "greater_than_equal": "give {ge:g} or more",
    "less_than_equal": "give {le:g} or less",
    "less_than": "give less than {lt:g}",
    "literal_error": "give {expected}",
    "model_type": "give a mapping of keys to values",
    "ip_v4_network": "give an IPv4 subnet with no host bits set, such as 172.20.0.0/16",
    "ip_v4_address": "give an IPv4 address, such as 127.0.0.1",
    "invalid_key": "write the key as a text",
    "recursion_loop": "take out the alias that contains itself",
}
_NO_VALUE = {"missing": "missing", "extra_forbidden": "unknown"}
_PATTERNS = {
    "memory": "give a size such as 512m or 2g",
    "node_config": "start the key with a letter and use lower-case letters, digits, - and _",
}


class _Loader(Composer, yaml.CSafeLoader):
    """A safe loader that leaves dates as text, and reports every value that it cannot build as an error of the file.

    libyaml parses, six times as fast as Python. Nodes are composed in Python, where too deep a nesting is an error:
    PyYAML's composer for libyaml overflows the stack, and the process is gone.
    """

    def __init__(self, stream: bytes) -> None:
        yaml.CSafeLoader.__init__(self, stream)
        Composer.__init__(self)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: ANN401 - as in PyYAML
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError) as error:  # `!!int north` and the like
            message = f"{show_value(node.value)} is no {node.tag.removeprefix('tag:yaml.org,2002:')}"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark) from error


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load(path: Path) -> Topology:
    """Read and check a federation.yaml. Raises TopologyError, with every problem that was found."""
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or "unreadable").lower()
        remedy = "copy the kit's federation.yaml there, or name the right directory"
        raise TopologyError([Problem(str(path), "", f"it cannot be read ({reason})", remedy)]) from error
    return parse(content, path.name)


def parse(content: bytes | str, file: str = "federation.yaml") -> Topology:
    """Check the text of a federation.yaml; `file` is for the messages. Raises TopologyError."""
    document, node = _yaml(content, file)
    if not isinstance(document, dict):
        found = "it is empty" if document is None else f"it holds {show_value(document)}"
        raise TopologyError([Problem(file, "", found, "start with name:, organisations: and federations: as keys")])
    try:
        return Topology.model_validate(document)
    except ValidationError as error:
        problems = [problem for detail in error.errors(include_url=False) for problem in _problems(detail, node, file)]
        raise TopologyError(list(dict.fromkeys(problems))) from error


def _yaml(content: bytes | str, file: str) -> tuple[object, yaml.Node | None]:
    try:
        loader = _Loader(content.encode() if isinstance(content, str) else content)
        node = loader.get_single_node()
        repeated = [
            Problem(file, "", f"{key} is given twice", "keep one of them", line) for key, line in _repeated(node)
        ]
        if repeated:
            raise TopologyError(repeated)
        return (None if node is None else loader.construct_document(node)), node
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        found = error.problem or error.context or "this cannot be parsed"
        problem = Problem(
            file, "", f"not valid YAML ({found})", "correct that line or the one before", mark.line + 1 if mark else 0
        )
        raise TopologyError([problem]) from error
    except (yaml.YAMLError, UnicodeError) as error:
        problem = Problem(file, "", f"not readable as text ({show_text(str(error))})", "save it as UTF-8")
        raise TopologyError([problem]) from error
    except RecursionError as error:
        raise TopologyError([Problem(file, "", "it is nested too deeply", "flatten it")]) from error


def _repeated(root: yaml.Node | None) -> Iterator[tuple[str, int]]:
    """Keys given twice in one mapping, which YAML forbids and PyYAML lets pass, with their lines."""
    waiting, visited = [root], set()
    while waiting:
        node = waiting.pop()
        if not isinstance(node, yaml.CollectionNode) or id(node) in visited:
            continue
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += reversed(node.value)
            continue
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        names = [key.value for key in keys]
        for index, key in enumerate(keys):
            if key.value in names[:index]:
                yield show_text(key.value), key.start_mark.line + 1
        waiting += reversed([value for _, value in node.value])


def _problems(detail: ErrorDetails, node: yaml.Node | None, file: str) -> list[Problem]:
    loc = tuple(part for part in detail["loc"] if part != "[key]")
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, RuleError):
        found = [((*loc, *finding.loc), _shown(finding.value), finding.remedy) for finding in cause.findings]
    else:
        found = [(loc, _NO_VALUE.get(detail["type"]) or show_value(detail["input"]), _remedy(detail, loc))]
    return [Problem(file, show_key(at), value, remedy, _line(node, at)) for at, value, remedy in found]


def _shown(value: object) -> str:
    return "missing" if value is None else show_value(value)


def _remedy(detail: ErrorDetails, loc: Loc) -> str:
    context = detail.get("ctx", {})
    kind = detail["type"]
    if kind == "value_error":
        return str(context["error"])
    if kind == "extra_forbidden":
        return f"take it out or correct it to one of {', '.join(_known_keys(loc[:-1]))}"
    if kind == "string_pattern_mismatch":
        return next((text for key, text in _PATTERNS.items() if key in loc), "correct it")
    return _REMEDIES.get(kind, detail["msg"].lower().rstrip(".")).format_map(context)


def _known_keys(loc: Loc) -> list[str]:
    model: type[BaseModel] = Topology
    for part in loc:
        if isinstance(part, str) and part in model.model_fields:
            annotation = model.model_fields[part].annotation
            inner = [annotation, *get_args(annotation)]
            model = next((kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)), model)
    return list(model.model_fields)


def _line(node: yaml.Node | None, loc: Loc) -> int:
    """The line of the deepest part of a key that the file has, from 1."""
    line = 0
    for part in loc:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        elif isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        else:
            break
    return line
