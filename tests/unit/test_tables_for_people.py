"""Tables on a narrow terminal: what is read as one word stays one."""

import pytest

from flowscout.cli.output import column_widths

LINES = [
    ["object", "since", "state"],
    ["AGGGTCGCGCAAACAAAACATGAT", "2026-11-22 22:47:12", "queued"],
    ["ACG", "2026-11-22 22:47:13", "running"],
]


def test_what_fits_is_as_wide_as_its_longest_cell():
    assert column_widths(LINES, 50) == [24, 19, 7]
    assert column_widths(LINES, 200) == [24, 19, 7]


def test_lines_are_broken_between_words_before_a_word_is():
    assert column_widths(LINES, 41) == [24, 10, 7]


def test_a_long_word_is_broken_before_a_date_is():
    assert column_widths(LINES, 30) == [13, 10, 7]


@pytest.mark.parametrize("available", range(3, 60))
def test_columns_fit_wherever_a_letter_of_each_does(available):
    assert sum(column_widths(LINES, available)) <= available


def test_empty_cells_have_a_width_too():
    assert column_widths([["", "a"], ["", ""]], 1) == [0, 1]
