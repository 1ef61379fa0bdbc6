"""The benchmark of what a round costs: each second belongs to one part, and to no other."""

import threading
import time

import pytest
from round_cost_clock import IMPORTS, LABELS, REST, Clock, beyond, parts


def test_each_second_belongs_to_the_innermost_part():
    clock = Clock()
    with clock.running():
        begun = time.perf_counter()
        with clock.part("fit"):
            time.sleep(0.02)
            with clock.part("fitting"):
                time.sleep(0.05)
        whole = time.perf_counter() - begun
    assert clock.seconds["fit"] >= 0.02
    assert clock.seconds["fitting"] >= 0.05
    assert clock.seconds["fit"] < whole - clock.seconds["fitting"] + 1e-6
    assert clock.seconds.total() == pytest.approx(whole, abs=0.01)  # the clock's own work lies outside of `whole`


def test_what_is_inside_of_imports_and_labels_stays_theirs():
    clock = Clock()
    with clock.running(), clock.part(LABELS), clock.part("database"):
        time.sleep(0.01)
    assert set(clock.seconds) == {LABELS, REST}


def test_other_threads_and_times_are_not_counted():
    clock = Clock()
    with clock.part("before"):
        pass
    with clock.running():
        other = threading.Thread(target=_enter, args=(clock,))
        other.start()
        other.join()
    assert set(clock.seconds) == {REST}


def _enter(clock: Clock) -> None:
    with clock.part("elsewhere"):
        pass


def test_a_second_run_begins_at_nothing():
    clock = Clock()
    with clock.running(), clock.part("fit"):
        pass
    with clock.running(), clock.part("train"):
        pass
    assert set(clock.seconds) == {REST, "train"}


def test_beyond_is_all_but_what_a_round_is_for():
    clock = Clock()
    clock.seconds.update({"fitting": 5.0, "training": 7.0, "oracle": 3.0, IMPORTS: 2.0, "plan": 0.25, REST: 0.5})
    assert beyond(clock.seconds) == 0.75
    assert parts([REST, "plan", "fitting"]) == ["fitting", "plan", REST]
