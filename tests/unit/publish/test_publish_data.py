import numpy as np
import pytest

from privacy.errors import FormatError
from privacy.publish.data import (
    hold_back,
    names_of,
    read_table,
    rounded_range,
    table_from_array,
)


def write(path, text):
    path.write_text(text)
    return path


def test_a_csv_gives_names_rows_and_labels(tmp_path):
    path = write(tmp_path / "t.csv", "a, b,y\n1,2,yes\n3,4e1,no\n")
    table = read_table(path, label="y")
    assert table.names == ("a", "b")
    assert table.rows.tolist() == [[1, 2], [3, 40]]
    assert table.labels == ("yes", "no")


def test_a_data_frame_names_its_columns_and_an_array_does_not():
    import pandas as pd

    assert names_of(pd.DataFrame({"a": [1], "b": [2]})) == ("a", "b")
    with pytest.raises(FormatError, match="not numbers: leave out b"):
        table_from_array(pd.DataFrame({"a": [1], "b": ["x"]}))
    for nameless in (pd.DataFrame([[1, 2]]), np.zeros((1, 2)), "table.csv"):
        assert names_of(nameless) == ()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "no-rows"),
        ("a,b\n", "no-rows"),
        ("a,b\n1\n", "wrong-feature-count"),
        ("a,b\n1,2,3\n", "wrong-feature-count"),
        ("a,b\n1,x\n", "not-a-number"),
        ("a,b\n1,\n", "not-a-number"),
        ("a,b\n1,nan\n", "not-finite"),
        ("a,b\n1,-inf\n", "not-finite"),
        ("a,a\n1,2\n", "bad-header"),
        ("a,\n1,2\n", "bad-header"),
    ],
)
def test_a_bad_csv_is_refused(tmp_path, text, code):
    with pytest.raises(FormatError) as caught:
        read_table(write(tmp_path / "t.csv", text))
    assert caught.value.code == code


def test_a_missing_label_column_is_refused(tmp_path):
    with pytest.raises(FormatError, match="no column 'y'"):
        read_table(write(tmp_path / "t.csv", "a\n1\n"), label="y")


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfa,b\n1,2\n")
    assert read_table(tmp_path / "t.csv").names == ("a", "b")


def test_an_archive_under_a_wrong_name_is_refused(tmp_path):
    with (tmp_path / "t.npy").open("wb") as file:
        np.savez(file, a=np.zeros((2, 2)))
    with pytest.raises(FormatError, match="archive"):
        read_table(tmp_path / "t.npy")


def test_a_label_without_column_names_is_refused(tmp_path):
    np.save(tmp_path / "t.npy", np.zeros((2, 2)))
    with pytest.raises(FormatError, match="no named columns"):
        read_table(tmp_path / "t.npy", label="y")


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\0")
    with pytest.raises(FormatError):
        read_table(tmp_path / "t.csv")


def test_a_pickled_npy_is_refused(tmp_path):
    np.save(tmp_path / "t.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(FormatError):
        read_table(tmp_path / "t.npy")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FormatError) as caught:
        read_table(tmp_path / "none.csv")
    assert caught.value.code == "no-such-file"


@pytest.mark.parametrize("array", [[1, 2], [[]], [["a"]], [[float("nan")]], [[[1]]]])
def test_an_array_that_is_no_table_is_refused(array):
    with pytest.raises(FormatError):
        table_from_array(array)


def test_rows_held_back_are_not_calibrated_on():
    calibration, held = hold_back(np.zeros((100, 2)))
    assert len(held) == 20
    assert not set(calibration) & set(held)


def test_too_few_rows_are_refused():
    with pytest.raises(FormatError, match="at least 20"):
        hold_back(np.zeros((19, 2)))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 3e5])
def test_a_published_range_covers_the_data_and_is_coarse(scale):
    column = np.array([0.123456, 0.5, 0.987654]) * scale
    low, high = rounded_range(column)
    assert low <= column.min() < column.max() <= high
    assert high - low < 1.2 * (column.max() - column.min())
    assert low not in column
    assert high not in column
