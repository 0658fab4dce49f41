"""The data file: what is read, what is refused, and what a refusal may say."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import samples
from breast_cancer.errors import TableError
from breast_cancer.schema import FEATURES, RANGES, TARGET
from breast_cancer.table import FILE_NAME, Table, is_held_out, read_table

Rows = list[list[str]]
HEADER = [*FEATURES, TARGET]
SECRET = "4711.0815"


def make_rows(count: int = 100) -> Rows:
    random = np.random.RandomState(0)
    return [[*(repr(float(random.uniform(*RANGES[name]))) for name in FEATURES), str(i % 2)] for i in range(count)]


def write(folder: Path, rows: Rows, header: list[str] = HEADER) -> Path:
    path = folder / FILE_NAME
    samples.write_csv(path, tuple(header), [tuple(row) for row in rows])
    return path


def as_set(table: Table) -> set[tuple[float, ...]]:
    return {tuple(row) for row in table.train.features.tolist()}


def test_every_row_is_either_trained_on_or_held_out(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, make_rows(500)))

    assert len(table.train) + len(table.held_out) == 500
    assert 60 <= len(table.held_out) <= 140
    assert table.train.features.shape == (len(table.train), 30)
    assert np.abs(table.train.features).max() <= 1
    assert set(np.unique(table.train.target)) == {0.0, 1.0}


def test_the_split_hangs_on_the_row_alone(tmp_path: Path) -> None:
    rows = make_rows(200)
    before = as_set(read_table(write(tmp_path, rows)))

    assert as_set(read_table(write(tmp_path, rows[::-1]))) == before
    assert as_set(read_table(write(tmp_path, rows[:-1]))) <= before


def test_columns_may_stand_in_any_order(tmp_path: Path) -> None:
    rows = make_rows()
    straight = read_table(write(tmp_path, rows))
    turned = read_table(write(tmp_path, [row[::-1] for row in rows], HEADER[::-1]))

    assert np.array_equal(straight.train.features, turned.train.features)


def test_values_beyond_the_published_range_are_clipped(tmp_path: Path) -> None:
    rows = [[*(["1e9"] * 15 + ["-1e9"] * 15), row[-1]] for row in make_rows()]
    # Equal rows fall on one side of the split: one of each class is enough for the other side's check.
    table = read_table(write(tmp_path, [*rows, *make_rows()]))

    assert np.abs(table.train.features).max() <= 1
    assert np.abs(table.held_out.features).max() <= 1


@pytest.mark.parametrize(
    ("column", "cell", "sentence"),
    [
        ("mean_area", "", "line 2: 'mean_area' is not a finite number."),
        ("mean_area", "nan", "line 2: 'mean_area' is not a finite number."),
        ("mean_area", "inf", "line 2: 'mean_area' is not a finite number."),
        ("mean_area", f"x{SECRET}", "line 2: 'mean_area' is not a finite number."),
        (TARGET, "2", "line 2: 'malignant' is neither 0 nor 1."),
        (TARGET, SECRET, "line 2: 'malignant' is neither 0 nor 1."),
    ],
)
def test_a_wrong_cell_is_named_but_never_quoted(tmp_path: Path, column: str, cell: str, sentence: str) -> None:
    rows = make_rows()
    rows[0][HEADER.index(column)] = cell

    with pytest.raises(TableError) as caught:
        read_table(write(tmp_path, rows))

    assert str(caught.value) == f"{FILE_NAME}: {sentence}"
    assert SECRET not in str(caught.value)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="the header lacks worst_fractal_dimension, malignant"):
        read_table(write(tmp_path, [row[:-2] for row in make_rows()], HEADER[:-2]))


def test_a_column_too_many_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="32 columns instead of the 31"):
        read_table(write(tmp_path, [[*row, "x"] for row in make_rows()], [*HEADER, "name"]))


def test_a_cell_too_many_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="line 2 has more cells"):
        read_table(write(tmp_path, [[*row, "x"] for row in make_rows()]))


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="too few rows: at least 50"):
        read_table(write(tmp_path, make_rows(49)))


def test_one_class_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="one class only"):
        read_table(write(tmp_path, [[*row[:-1], "0"] for row in make_rows()]))


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00"])
def test_no_file_or_none_of_ours_is_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / FILE_NAME
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(TableError, match=r"^breast-cancer\.csv: "):
        read_table(path)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=31, max_size=31), st.binary(max_size=8))
def test_a_row_always_falls_on_the_same_side(row: list[float], salt: bytes) -> None:
    assert is_held_out(row, salt) == is_held_out(list(row), salt)


@given(st.integers(0, 700), st.integers(1, 9))
def test_parts_share_the_rows_out_once_each(count: int, of: int) -> None:
    rows = [(str(i),) for i in range(count)]
    parts = [samples.part_of(rows, part, of) for part in range(1, of + 1)]

    assert sorted(row for part in parts for row in part) == sorted(rows)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    # The same rule as the samples image's: row i, from 1, goes to part (i - 1) % of + 1.
    assert all(rows.index(row) % of == part for part, own in enumerate(parts) for row in own[:3])


def test_a_part_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="from 1 to 3"):
        samples.part_of([("1",)], 4, 3)
