"""The types of names and scalars in federation.yaml.

Not for rules that need more than one field: those are in the models that hold the fields.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

# Each is already a Docker name, a leaf of the CA, a directory of secrets, a public host name or a Compose project.
_RESERVED = """
    admin alertmanager app auth ca cli clientapp clients core data edge federation fleet gateway gpu grafana host hub
    jupyterhub keycloak localhost monitoring nginx notebooks operator outside postgres prometheus root samples seed
    serverapp services site sites state superexec superlink supernode supernode-keys tools
"""
RESERVED = frozenset(_RESERVED.split())
# A site called `gateway-north` would share the name of the gateway of site `north`, `north-app` its inner network.
RESERVED_PREFIXES = ("clientapp-", "gateway-", "site-", "supernode-")
RESERVED_SUFFIXES = ("-app",)

_LABEL = re.compile(r"[a-z](?:[a-z0-9-]*[a-z0-9])?")
_DOMAIN_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_LONGEST_DOMAIN = 253 - len("superlink.")


def _label(value: str) -> str:
    if not _LABEL.fullmatch(value) or "--" in value:
        raise ValueError("use lower-case letters, digits and single hyphens, with a letter first and no hyphen last")
    return value


def _unreserved(value: str) -> str:
    if value in RESERVED or value.startswith(RESERVED_PREFIXES) or value.endswith(RESERVED_SUFFIXES):
        raise ValueError("the kit uses that name itself, so choose another one")
    return value


def _domain(value: str) -> str:
    labels = value.split(".")
    if len(labels) < 2 or not all(map(_DOMAIN_LABEL.fullmatch, labels)) or labels[-1].isdigit():
        raise ValueError("give a lower-case DNS name of two labels or more, such as flowerbed.localhost")
    if len(value) > _LONGEST_DOMAIN:
        raise ValueError(f"give a DNS name of at most {_LONGEST_DOMAIN} characters")
    return value


def _title(value: str) -> str:
    if not value.isprintable() or value != value.strip() or not value:
        raise ValueError("give one line of printable text without spaces at its ends")
    if not unicodedata.is_normalized("NFC", value):
        raise ValueError("write its accented letters as single characters (Unicode NFC)")
    return value


def _text(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("give a text")  # noqa: TRY004 - pydantic reports ValueError only
    return value


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("give a number")  # noqa: TRY004 - pydantic reports ValueError only
    return value


def _node_value(value: Any) -> str | int | float | bool:  # noqa: ANN401 - whatever YAML can hold
    if isinstance(value, str) and (not value.isprintable() or set(value) & set("'\"\\")):
        raise ValueError("leave out quotes, backslashes and line breaks, which Flower's node config cannot carry")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("give an integer of at most 64 bits")
    if not isinstance(value, str | int | float | bool) or value != value or value in (float("inf"), float("-inf")):
        raise ValueError("give a text, a finite number, true or false")
    return value


def _filled(value: object) -> object:
    if value in ([], ()):
        raise ValueError("give at least one")
    return value


StackName = Annotated[str, Field(max_length=24), AfterValidator(_label)]
Label = Annotated[str, Field(max_length=40), AfterValidator(_label)]
OrganisationName = Annotated[Label, AfterValidator(_unreserved)]
Domain = Annotated[str, AfterValidator(_domain)]
# X.520 allows 64 characters in an organizationName.
Title = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_title)]
Memory = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,6}[mg]$")]
Integer = Annotated[int, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
# Not pydantic's min_length: that counts valid items only, and so reports a list of invalid ones as too short as well.
Filled = BeforeValidator(_filled)
Text = BeforeValidator(_text)
NodeKey = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
NodeValue = Annotated[str | int | float | bool, BeforeValidator(_node_value)]
