"""Read a site's data file: checked, scaled, split into rows to train on and rows held out. Not for training.

No error names a value of the file, because errors travel to the ServerApp.
"""

import csv
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from breast_cancer.errors import TableError
from breast_cancer.schema import FEATURES, RANGES, TARGET

FILE_NAME = "breast-cancer.csv"
# Fewer rows than this train nothing useful under any sensible epsilon.
MIN_ROWS = 50
HELD_OUT_SHARE = 0.2
SPLIT_SALT = b"flowerbed"

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Rows:
    """Features scaled to -1 to 1, one row per patient, and the target (1.0: malignant)."""

    features: Floats
    target: Floats

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True)
class Table:
    """One site's rows."""

    train: Rows
    held_out: Rows


def read_table(path: Path, salt: bytes = SPLIT_SALT) -> Table:
    """Return the checked, scaled and split rows of a data file.

    `salt` fixes which rows are held out; the app never changes it, benchmarks do.

    Raises:
        TableError: the file is missing, unreadable or not of the format.
    """
    rows = _read_rows(path)
    held_out = [is_held_out(row, salt) for row in rows]
    table = Table(
        train=_to_rows([row for row, out in zip(rows, held_out, strict=True) if not out]),
        held_out=_to_rows([row for row, out in zip(rows, held_out, strict=True) if out]),
    )
    if len(np.unique(table.train.target)) != 2:
        raise TableError(
            f"{path.name}: the rows to train on hold one class only: both values of '{TARGET}' are needed."
        )
    return table


def is_held_out(row: Sequence[float], salt: bytes = SPLIT_SALT) -> bool:
    """Return whether a row is held out from training, about one in five.

    It depends on the row's own content only: the same in every round and after a restart, equal rows never stand on
    both sides, and adding or removing one patient moves nobody else, which is what differential privacy compares.
    """
    text = ",".join(repr(value) for value in row)
    digest = hashlib.sha256(salt + text.encode()).digest()
    return int.from_bytes(digest[:8]) < HELD_OUT_SHARE * 2**64


def scale(features: npt.NDArray[np.float64]) -> Floats:
    """Return features scaled to -1 to 1 by the published ranges; the root draws in their long right tails."""
    low, high = np.array([RANGES[name] for name in FEATURES]).T
    share = np.clip((features - low) / (high - low), 0.0, 1.0)
    scaled: Floats = (2.0 * np.sqrt(share) - 1.0).astype(np.float32)
    return scaled


def _to_rows(rows: list[list[float]]) -> Rows:
    values = np.array(rows, dtype=np.float64).reshape(-1, len(FEATURES) + 1)
    return Rows(features=scale(values[:, :-1]), target=values[:, -1].astype(np.float32))


def _read_rows(path: Path) -> list[list[float]]:
    """Return each row as the features in this app's order, then the target."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            _check_header(path.name, reader.fieldnames or ())
            rows = [_parse_row(path.name, reader.line_num, cells) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{path.name}: cannot be read as CSV ({type(error).__name__}).") from error
    if len(rows) < MIN_ROWS:
        raise TableError(f"{path.name}: too few rows: at least {MIN_ROWS} are needed.")
    return rows


def _check_header(name: str, header: Sequence[str]) -> None:
    wanted = (*FEATURES, TARGET)
    missing = [column for column in wanted if column not in header]
    if missing:
        raise TableError(f"{name}: the header lacks {', '.join(missing)}.")
    # A column twice, or one too many, is a file of another format, not a site's own business.
    if len(header) != len(wanted):
        raise TableError(f"{name}: the header has {len(header)} columns instead of the {len(wanted)} of this app.")


def _parse_row(name: str, line: int, cells: dict[str | None, str | None]) -> list[float]:
    if None in cells:
        raise TableError(f"{name}: line {line} has more cells than the header has columns.")
    row = [_parse_number(name, line, column, cells[column]) for column in (*FEATURES, TARGET)]
    if row[-1] not in (0.0, 1.0):
        raise TableError(f"{name}: line {line}: '{TARGET}' is neither 0 nor 1.")
    return row


def _parse_number(name: str, line: int, column: str, cell: str | None) -> float:
    try:
        value = float(cell or "nan")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise TableError(f"{name}: line {line}: '{column}' is not a finite number.")
    return value
