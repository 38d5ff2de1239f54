import numpy as np
import pytest

from privacy.bundle import Column
from privacy.client.rows import as_rows, range_caveats, read_rows
from privacy.errors import FormatError
from privacy.modes import Mode

NAMES = ["a", "b"]


def write(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_csv_columns_are_matched_by_name(tmp_path):
    path = write(tmp_path, "r.csv", "b,a\n1,2\n")
    assert read_rows(path, NAMES) == [[2.0, 1.0]]


def test_a_csv_without_a_header_is_taken_in_order(tmp_path):
    assert read_rows(write(tmp_path, "r.csv", "1,2\n3,4\n"), NAMES) == [[1, 2], [3, 4]]


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    (tmp_path / "r.csv").write_bytes(b"\xef\xbb\xbfb,a\n1,2\n")
    assert read_rows(tmp_path / "r.csv", NAMES) == [[2.0, 1.0]]


def test_rows_may_be_lists_an_array_or_a_data_frame_by_name():
    import pandas as pd

    frame = pd.DataFrame({"b": [2, 4], "a": [1.5, 3.5]})
    array = np.array([[1.5, 2], [3.5, 4]])
    for given in (array.tolist(), list(array), array, frame):
        found = as_rows(given, NAMES)
        assert found == [[1.5, 2], [3.5, 4]]
        assert {type(x) for row in found for x in row} <= {int, float}


@pytest.mark.parametrize(
    "given",
    [[1.0, 2.0], np.array([1.0, 2.0]), [{"a": 1, "b": 2}], ["ab"], "ab", 7, None],
)
def test_what_is_no_rows_is_refused(given):
    with pytest.raises(FormatError, match=r"one row is \[\[…\]\]"):
        as_rows(given, NAMES)


def test_a_data_frame_of_other_columns_is_refused():
    import pandas as pd

    with pytest.raises(FormatError, match="missing: b; unknown: 7"):
        as_rows(pd.DataFrame({"a": [1], 7: [2]}), NAMES)


def test_an_archive_under_a_wrong_name_is_refused(tmp_path):
    with (tmp_path / "r.npy").open("wb") as file:
        np.savez(file, a=np.zeros((2, 2)))
    with pytest.raises(FormatError, match="archive"):
        read_rows(tmp_path / "r.npy", NAMES)


def test_json_and_npy_hold_rows(tmp_path):
    np.save(tmp_path / "r.npy", np.array([[1.5, 2.0]]))
    assert read_rows(tmp_path / "r.npy", NAMES) == [[1.5, 2.0]]
    assert read_rows(write(tmp_path, "r.json", "[[1, 2]]"), NAMES) == [[1, 2]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r.csv", ""),
        ("r.csv", "a,b\n"),
        ("r.csv", "a,c\n1,2\n"),
        ("r.csv", "a,b,c\n1,2,3\n"),
        ("r.csv", "a,a,b\n1,2,3\n"),
        ("r.json", "[[1e999, 2]]"),
        ("r.csv", "a,b\n1,x\n"),
        ("r.csv", "a,b\n1\n"),
        ("r.json", "{}"),
        ("r.json", "[1]"),
        ("r.json", "["),
        ("r.npy", "x"),
    ],
)
def test_files_that_hold_no_rows_are_refused(tmp_path, name, text):
    with pytest.raises(FormatError):
        read_rows(write(tmp_path, name, text), NAMES)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FormatError) as caught:
        read_rows(tmp_path / "r.csv", NAMES)
    assert caught.value.code == "no-such-file"


RANGES = (Column("a", 0.0, 1.0), Column("b", -1.0, 1.0))


@pytest.mark.parametrize("mode", Mode)
def test_values_at_the_ends_of_the_range_need_no_words(mode):
    rows = [[0.0, -1.0], [1.0, 1.0]]
    for allowed in (True, False):
        assert range_caveats(rows, RANGES, mode, allow_out_of_range=allowed) == ()


def test_values_out_of_range_are_refused_without_being_quoted():
    rows = [[0.5, 0.0], [0.5, 1.625], [7.25, 0.0]]
    with pytest.raises(FormatError) as caught:
        range_caveats(rows, RANGES, Mode.FHE, allow_out_of_range=False)
    assert caught.value.code == "out-of-range"
    assert "2 values" in caught.value.message
    assert "(a 0 to 1, b -1 to 1; first in row 2)" in caught.value.message
    assert "1.625" not in caught.value.message


@pytest.mark.parametrize(("mode", "does"), [("fhe", "clips"), ("tee", "extrapolates")])
def test_values_out_of_range_are_named_where_they_are_allowed(mode, does):
    rows = [[0.5, 2.0]]
    (words,) = range_caveats(rows, RANGES, Mode(mode), allow_out_of_range=True)
    assert "(b -1 to 1; first in row 1)" in words
    assert does in words
