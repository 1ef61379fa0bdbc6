"""The states and the one table of their transitions."""

import itertools

import pytest

from flowscout.db.models import Base
from flowscout.db.states import (
    TRANSITIONS,
    AttemptState,
    CampaignState,
    EvaluationState,
    RoundState,
    State,
    check_transition,
    sources_of,
)
from flowscout.errors import StateError

KINDS = [CampaignState, RoundState, EvaluationState, AttemptState]
PAIRS = [pair for kind in KINDS for pair in itertools.product(kind, kind)]


def test_every_state_of_every_kind_has_a_row() -> None:
    assert set(TRANSITIONS) == set(KINDS)
    for kind in KINDS:
        assert list(TRANSITIONS[kind]) == list(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_holds_states_of_its_own_kind_only(kind: type[State]) -> None:
    for source, targets in TRANSITIONS[kind].items():
        assert {type(state) for state in (source, *targets)} == {kind}


def test_states_of_two_kinds_with_the_same_text_keep_their_own_rows() -> None:
    assert EvaluationState.FAILED == RoundState.FAILED == AttemptState.FAILED
    assert EvaluationState.RUNNING == AttemptState.RUNNING
    assert TRANSITIONS[AttemptState][AttemptState.FAILED] == set()
    assert TRANSITIONS[RoundState][RoundState.FAILED] == {RoundState.DISPATCHED, RoundState.CANCELLED}
    assert EvaluationState.QUEUED in sources_of(EvaluationState.RUNNING)
    assert sources_of(AttemptState.RUNNING) == []


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_sources_and_check_agree(source: State, target: State) -> None:
    if source in sources_of(target):
        check_transition(source, target, what="it")
    else:
        with pytest.raises(StateError, match=f"it is {source}, so it cannot become {target}; it can become"):
            check_transition(source, target, what="it")


@pytest.mark.parametrize("kind", KINDS)
def test_no_state_leads_to_itself(kind: type[State]) -> None:
    assert [state for state, targets in TRANSITIONS[kind].items() if state in targets] == []


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        (CampaignState, CampaignState.ACTIVE),
        (RoundState, RoundState.PLANNED),
        (EvaluationState, EvaluationState.QUEUED),
        (AttemptState, AttemptState.RUNNING),
    ],
)
def test_every_state_is_reached_from_the_first(kind: type[State], first: State) -> None:
    reached, frontier = {first}, [first]
    while frontier:
        new = TRANSITIONS[kind][frontier.pop()] - reached
        reached |= new
        frontier += new
    assert reached == set(kind)


def test_the_refusal_names_what_is_legal() -> None:
    with pytest.raises(StateError, match=r"round 3 is planned.*become cancelled, failed, fitting\."):
        check_transition(RoundState.PLANNED, RoundState.COMPLETE, what="round 3")
    with pytest.raises(StateError, match=r"nothing: it is final"):
        check_transition(RoundState.COMPLETE, RoundState.FAILED, what="round 3")


def test_a_done_evaluation_never_moves_and_an_open_one_may_always_become_done() -> None:
    assert TRANSITIONS[EvaluationState][EvaluationState.DONE] == set()
    assert set(sources_of(EvaluationState.DONE)) == set(EvaluationState) - {EvaluationState.DONE}


@pytest.mark.parametrize(
    ("table", "kind"), list(zip(["campaign", "round", "evaluation", "attempt"], KINDS, strict=True))
)
def test_the_database_stores_each_state_by_its_text(table: str, kind: type[State]) -> None:
    column = Base.metadata.tables[table].c.state
    assert column.type.enums == [str(state) for state in kind]  # type: ignore[attr-defined]
    assert max(map(len, kind)) <= 24
