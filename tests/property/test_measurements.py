"""Whatever is told, in whatever order and however often: the same facts give the same knowledge."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count, pairwise, product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowscout.db import History, MeasurementRecord, Qualifier, Told
from flowscout.errors import LabelError
from flowscout.testing.histories import PROPERTY, Scene, begin, measured

# Every example opens campaigns of its own in one file; a new file for each costs ten times as much.
FEWER = settings(max_examples=40)


@pytest.fixture(scope="module")
def history() -> Iterator[History]:
    with tempfile.TemporaryDirectory() as folder, History(str(Path(folder) / "history.db")) as history:
        yield history


numbers = count()


def fresh(history: History) -> Scene:
    """Return a campaign that nobody has told anything yet."""
    return begin(history, name=f"campaign {next(numbers)}")


# The sum of a dozen values must be a float too.
finite = st.floats(min_value=-1e300, max_value=1e300)


@st.composite
def records(draw: st.DrawFn) -> list[MeasurementRecord]:
    """Draw measurements whose rows are all different, of few objects, so that they meet."""
    told = [one for one in Qualifier if one is not Qualifier.RETRACTED]  # which takes back a row that is stored
    rows = draw(st.lists(st.tuples(st.sampled_from("abcdé"), finite, st.sampled_from(told)), max_size=12))
    return [
        measured(
            obj,
            value if qualifier in (Qualifier.EQUAL, Qualifier.BELOW, Qualifier.ABOVE) else None,
            qualifier=qualifier,
            row_id=str(row),
            property=(PROPERTY, "mass")[row % 4 == 3],
        )
        for row, (obj, value, qualifier) in enumerate(rows)
    ]


def current_values(scene: Scene) -> list[tuple[object, ...]]:
    """Return what is known now, without the ids and clocks that depend on the order of telling."""
    return scene.rows(
        "SELECT candidate.key, property, value, count FROM current_value JOIN candidate ON "
        f"candidate.id = candidate_id WHERE current_value.campaign_id = {scene.campaign.id} ORDER BY 1, 2"
    )


def tell_in_parts(scene: Scene, rows: Sequence[MeasurementRecord], cuts: Sequence[int]) -> None:
    edges = [0, *sorted(cut % (len(rows) + 1) for cut in cuts), len(rows)]
    for start, stop in pairwise(edges):
        scene.tell(*rows[start:stop])


@FEWER
@given(rows=records())
def test_what_is_told_twice_changes_nothing(history: History, rows: list[MeasurementRecord]) -> None:
    scene = fresh(history)
    assert scene.tell(*rows) == Told(added=len(rows), unchanged=0)
    before = scene.table("measurement"), scene.table("current_value"), scene.table("candidate")
    assert scene.tell(*reversed(rows)) == Told(added=0, unchanged=len(rows))
    assert (scene.table("measurement"), scene.table("current_value"), scene.table("candidate")) == before
    assert history.campaigns.get(scene.campaign.id).clock == len(rows)


@FEWER
@given(rows=records(), data=st.data())
def test_the_order_of_telling_does_not_change_what_is_known(
    history: History, rows: list[MeasurementRecord], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(rows))
    one, other = fresh(history), fresh(history)
    one.tell(*rows)
    tell_in_parts(other, shuffled, data.draw(st.lists(st.integers(0, 99), max_size=3)))
    assert current_values(one) == current_values(other)
    sets = [history.measurements.training_set(s.campaign.id, PROPERTY) for s in (one, other)]
    assert sets[0] == sets[1]


@FEWER
@given(rows=records(), later=records())
def test_a_rebuilt_training_set_is_the_first_to_the_last_bit(
    history: History, rows: list[MeasurementRecord], later: list[MeasurementRecord]
) -> None:
    scene = fresh(history)
    first = []
    for row in rows:
        scene.tell(row)
        first.append(history.measurements.training_set(scene.campaign.id, PROPERTY))
    scene.tell(*(measured(r.object, r.value, qualifier=r.qualifier, row_id=f"l{r.row_id}") for r in later))
    history.measurements.rebuild_current_values(scene.campaign.id)
    for found in first:
        again = history.measurements.training_set(scene.campaign.id, PROPERTY, upto_seq=found.upto_seq)
        assert again == found


@FEWER
@given(rows=records(), data=st.data())
def test_a_training_set_made_of_one_at_another_cut_off_is_that_which_is_read(
    history: History, rows: list[MeasurementRecord], data: st.DataObject
) -> None:
    scene = fresh(history)
    number, actor = scene.campaign.id, scene.campaign.name
    scene.tell(*rows)
    for row in data.draw(st.permutations(rows)):
        value = None if row.value is None else data.draw(finite)
        if data.draw(st.booleans()):
            history.measurements.add(number, [replace(row, value=value)], actor=actor, correct="misread")
        elif data.draw(st.booleans()):
            row_name = row.source, row.row_id
            history.measurements.retract(number, row=row_name, reason="of another plate", actor=actor)
    read = history.measurements.training_set
    cut_offs = sorted({data.draw(st.integers(0, history.campaigns.get(number).clock)) for _ in range(4)})
    whole = [read(number, PROPERTY, upto_seq=upto_seq) for upto_seq in cut_offs]
    for near, wanted in product(whole, whole):
        assert read(number, PROPERTY, upto_seq=wanted.upto_seq, near=near) == wanted


@FEWER
@given(rows=records())
def test_current_values_are_those_of_the_training_set(history: History, rows: list[MeasurementRecord]) -> None:
    scene = fresh(history)
    scene.tell(*rows)
    known = history.measurements.training_set(scene.campaign.id, PROPERTY).rows
    found = [(key, value, count) for key, prop, value, count in current_values(scene) if prop == PROPERTY]
    assert sorted(found) == [(row.key, row.value, row.count) for row in known]


@FEWER
@given(rows=records().filter(bool), data=st.data())
def test_a_contradiction_anywhere_refuses_the_whole_telling(
    history: History, rows: list[MeasurementRecord], data: st.DataObject
) -> None:
    known = data.draw(st.sampled_from(rows))
    scene = fresh(history)
    scene.tell(measured("zz", 1.0, row_id=known.row_id, property=known.property))
    before = current_values(scene)
    with pytest.raises(LabelError):
        scene.tell(*rows)
    assert current_values(scene) == before
    assert history.campaigns.get(scene.campaign.id).clock == 1
