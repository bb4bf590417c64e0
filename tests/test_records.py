"""Files of labelled texts: every line is accounted for."""

import pytest

from gptlib.extras.formats.records import read_records


def test_every_line_of_a_file_is_accounted_for() -> None:
    lines = ["ham\tHi\n", "\n", "no tab\n", "ham\t\r\n", "spma\tWin\n", "spam\ta\tb\r\n", "\t \n"]
    records, broken = read_records(lines, ["ham", "spam"], skip_broken=True)
    assert records == [("ham", "Hi"), ("spam", "a\tb")]
    assert broken == {
        3: "no tab between label and text",
        4: "the text is empty",
        5: "the label 'spma' is none of ham, spam",
    }


def test_broken_lines_are_refused_by_number_unless_they_may_be_skipped() -> None:
    with pytest.raises(ValueError, match=r"broken lines: 2 \(line 2: no tab .*; line 3: the text"):
        read_records(["ham\tHi", "x", "ham\t"])
    with pytest.raises(ValueError, match="no line holds a record"):
        read_records(["", "  \n"])
    with pytest.raises(ValueError, match="no line holds a record"):
        read_records(["x"], skip_broken=True)


def test_many_broken_lines_make_no_endless_message() -> None:
    with pytest.raises(ValueError, match="broken lines: 5000") as caught:
        read_records(["x"] * 5000)
    assert len(str(caught.value)) < 400
    assert str(caught.value).count("no tab") == 3
    with pytest.raises(ValueError, match="the label 'aaa") as caught:
        read_records(["a" * 999 + "\tHi"], ["ham", "spam"])
    assert len(str(caught.value)) < 400


def test_an_unknown_label_is_fine_if_none_are_given() -> None:
    assert read_records(["a\tx", "b\ty"])[0] == [("a", "x"), ("b", "y")]
    with pytest.raises(ValueError, match="line 1: the label is empty"):
        read_records(["\tx", "b\ty"])


def test_one_string_is_not_taken_for_a_list_of_letters() -> None:
    for lines, labels in ((["ham\tsee you"], "ham"), ("ham\tsee you", ["ham"])):
        with pytest.raises(ValueError, match="is one string; pass an open file, and a list of"):
            read_records(lines, labels)
