"""Reading many rows without Python's collector: it is back afterwards, whoever reads beside."""

import gc

import pytest

from flowscout.db.pauses import without_pauses


def test_the_collector_rests_within_and_works_afterwards():
    with without_pauses():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_works_afterwards_where_the_rows_could_not_be_read():
    with pytest.raises(ValueError, match="gone"), without_pauses():
        raise ValueError("gone")
    assert gc.isenabled()


def test_it_works_in_the_end_whichever_of_two_readers_ends_first():
    first, second = without_pauses(), without_pauses()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert gc.isenabled()
