"""The sample table: scikit-learn's Wisconsin diagnostic breast-cancer data as one shuffled CSV.

For building the samples image and for `make simulate`, so that both serve the same rows in the same order. Not for
sites with data of their own, and never run inside a federation.

Usage: python apps/samples.py OUT.csv
       python apps/samples.py OUT.csv --part 2 --of 3    (the rows that site 2 of 3 gets)
"""

import argparse
import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

# Part of the format: another seed gives every site other rows.
SHUFFLE_SEED = 569
TARGET = "malignant"

Row = tuple[str, ...]


def read_table() -> tuple[Row, list[Row]]:
    """Return header and rows of the packaged table (569 patients), unshuffled.

    Source: W. Street, W. Wolberg, O. Mangasarian, "Nuclear feature extraction for breast tumor diagnosis" (1993),
    as packaged by `sklearn.datasets.load_breast_cancer`. There 1 means benign; here `malignant` is 1 for malignant.
    """
    from sklearn.datasets import load_breast_cancer  # here, because splitting rows needs no scikit-learn

    table = load_breast_cancer()
    header = (*(name.replace(" ", "_") for name in table.feature_names), TARGET)
    rows = [
        # repr() of a float is the shortest text that reads back as the same number.
        (*(repr(float(value)) for value in features), str(1 - int(target)))
        for features, target in zip(table.data, table.target, strict=True)
    ]
    return header, rows


def shuffle(rows: Sequence[Row]) -> list[Row]:
    """Return the rows in the order that the format fixes, the same with every numpy release.

    `RandomState` is frozen by numpy's compatibility policy (NEP 19); `Generator` is not.
    """
    from numpy.random import RandomState

    return [rows[i] for i in RandomState(SHUFFLE_SEED).permutation(len(rows))]


def part_of(rows: Sequence[Row], part: int, of: int) -> list[Row]:
    """Return the rows of one part: row i (from 1) belongs to part (i - 1) % of + 1.

    Raises:
        ValueError: `part` is not in 1 to `of`.
    """
    if not 1 <= part <= of:
        raise ValueError(f"part is {part}: give a number from 1 to {of}")
    return list(rows[part - 1 :: of])


def write_csv(path: Path, header: Row, rows: Iterable[Row]) -> None:
    """Write header and rows, lines ended by a line feed."""
    with path.open("w", encoding="ascii", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def main() -> None:
    """Write the whole table, or one part of it."""
    parser = argparse.ArgumentParser(description="Write the shuffled sample table as CSV.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--part", type=int, default=1, help="which part, from 1 (default 1)")
    parser.add_argument("--of", type=int, default=1, help="number of parts (default 1: the whole table)")
    args = parser.parse_args()
    header, rows = read_table()
    try:
        chosen = part_of(shuffle(rows), args.part, args.of)
    except ValueError as error:
        parser.error(str(error))
    write_csv(args.out, header, chosen)


if __name__ == "__main__":
    main()
