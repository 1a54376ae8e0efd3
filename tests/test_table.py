from lmms_kvtp.table import markdown


def test_cells_are_aligned_and_cannot_break_the_table():
    assert markdown(["a", "bb"], [["x|y", "1"], ["two\nlines", ""]]).splitlines() == [
        "| a         | bb |",
        "|-----------|----|",
        "| x\\|y      | 1  |",
        "| two lines |    |",
    ]
