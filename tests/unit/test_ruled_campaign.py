"""Campaigns over sequences under the rules of a bench: what the file says, what is proposed, what is told."""

import pandas as pd
import pytest
import torch

from flowscout import Campaign
from flowscout.errors import ConfigError, ObjectError
from flowscout.loop.config import parse_campaign
from flowscout.loop.drift import drifted
from flowscout.loop.fitting import fit_to, labels_of, new_surrogate, training_set
from flowscout.loop.surrogate_choice import choose_surrogate

CAMPAIGN = """\
campaign: binders
seed: 3
space: {type: sequence, alphabet: dna, length: 8, strand: double, forbid: ["GGN[^A]"], gc: [0.4, 0.6]}
objectives: [{name: y, direction: maximize}]
oracle: assay:score
surrogate: {type: gp}
proposer: {steps: 3, evaluations: 200}
batch: {size: 8}
budget: {rounds: 2}
device: cpu
"""
ASSAY = "def score(objects): return [float(o.count('A') + o.count('T') + (o[2] == o[5])) for o in objects]\n"

SPACES = {
    "motifs and GC of both strands": "",
    "mutants": 'alphabet: protein, length: 8, wild_type: MKTWYACD, max_mutations: 3, forbid: ["N[^P][ST]"]',
    "letters": "alphabet: protein, length: 6, letters: {1: M, 3: [A, G], 6: DE}, homopolymer: 1",
}


def said(space, text=CAMPAIGN):
    """Return a campaign file with another space."""
    start = text.index("space:")
    return (
        f"{text[:start]}space: {{type: sequence, {space}}}{text[text.index(chr(10), start) :]}" if space else text
    )


@pytest.fixture
def campaign(tmp_path):
    """Return how to open a campaign of a file."""
    opened = []

    def start(text):
        (tmp_path / "assay.py").write_text(ASSAY)
        (tmp_path / "c.yaml").write_text(text)
        opened.append(Campaign.from_yaml(tmp_path / "c.yaml"))
        return opened[-1]

    yield start
    for found in opened:
        found.close()


@pytest.mark.parametrize("name", SPACES)
def test_every_proposal_of_every_round_obeys_the_rules(campaign, name):
    found = campaign(said(SPACES[name]))
    rules = found.workbench.tools.rules
    history, bench = found.workbench.history, found.workbench
    while found.run_round() is not None:
        pass
    rounds = history.rounds.all(bench.campaign.id)
    assert len(rounds) == 2
    for one in rounds:
        proposals = history.rounds.proposals(one.id)
        assert len(proposals) > 8
        assert [rules.validate(proposal.object) for proposal in proposals] == [None] * len(proposals)
    assert len({rules.key(text) for text in found.history()["object"]}) == 16


def test_rounds_end_when_every_allowed_object_was_measured(campaign):
    found = campaign(
        said("alphabet: dna, length: 6, wild_type: ACGTAC, max_mutations: 1").replace("size: 8", "size: 10")
    )
    while found.run_round() is not None:
        pass
    assert found.status().candidates_measured == 19  # the wild type, and three other letters at six positions


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("alphabet: dna, length: 8, gc: [0.4]", "space.gc"),
        ("alphabet: dna, length: 8, gc: [0.6, 0.4]", "gc is .*expected the least and the largest share"),
        (
            "alphabet: protein, length: 8, gc: [0.4, 0.6]",
            "gc is .* with the alphabet 'protein', expected dna or rna",
        ),
        ("alphabet: dna, length: 8, max_mutations: 2", "expected both or neither. Add wild_type"),
        ("alphabet: dna, length: 8, wild_type: ACG, max_mutations: 2", "the wild type has 3 letters, expected 8"),
        ("alphabet: dna, length: 8, forbid: [GGZ]", "the motif 'GGZ' has 'Z', expected letters of ACGT"),
        ("alphabet: dna, length: 8, forbid: [NNN]", "the motif 'NNN' forbids every sequence"),
        ("alphabet: dna, length: 8, letters: {9: A}", "names position 9, expected one from 1 to 8"),
        ("alphabet: dna, length: 8, letters: {3: AZ}", "letters of position 3 are 'AZ'"),
        ("alphabet: dna, length: 8, homopolymer: 0", "space.homopolymer"),
        ("alphabet: dna, length: 9, gc: [0.5, 0.5]", r"no sequence obeys all rules together \(gc\)"),
        (
            "alphabet: dna, length: 8, forbid: [A, C], gc: [0, 0.4], homopolymer: 1",
            r"There would be some without .*gc \(2 objects\).*Relax that rule",
        ),
        (
            "alphabet: dna, length: 8, wild_type: ACGTACGT, max_mutations: 0",
            "batch.size is 8, larger than the space",
        ),
        ("alphabet: dna, length: 8, max_mutation: 2", "did you mean 'max_mutations'"),
    ],
)
def test_rule_that_cannot_be_is_explained(space, message):
    with pytest.raises(ConfigError, match=message):
        parse_campaign(said(space), name="c.yaml")


def test_relative_that_breaks_a_rule_trains_and_is_never_proposed(campaign):
    found = campaign(said("alphabet: protein, length: 6, wild_type: MKTWYA, max_mutations: 1, letters: {1: M}"))
    relatives = ["AAAAAA", "MCCCCC", "mkttta", "MKTWYA"]
    found.tell(pd.DataFrame({"object": relatives, "y": [9.0, 1.0, 2.0, 3.0]}))
    bench = found.workbench
    while found.run_round() is not None:
        pass
    rounds = bench.history.rounds.all(bench.campaign.id)
    fits = [bench.history.rounds.fit(one.id) for one in rounds]
    assert [fit.data_count for fit in fits] == [4, 12]
    proposed = {one.key for each in rounds for one in bench.history.rounds.proposals(each.id, selected=True)}
    assert not proposed & {"AAAAAA", "MCCCCC", "MKTTTA", "MKTWYA"}
    assert found.best(1)["object"].tolist() == ["AAAAAA"]
    assert found.retract("AAAAAA", reason="mislabelled") is not None
    assert found.best(1)["object"].tolist() != ["AAAAAA"]


def test_what_is_told_must_have_the_letters_and_the_length(campaign):
    found = campaign(said("alphabet: protein, length: 6, wild_type: MKTWYA, max_mutations: 1"))
    for wrong in ("MKTWY", "MKTWYB"):
        with pytest.raises(ObjectError, match=wrong):
            found.tell(pd.DataFrame({"object": [wrong], "y": [1.0]}))


def test_plateau_is_left_within_the_rules(campaign):
    flat = said("alphabet: dna, length: 8, wild_type: ACGTACGT, max_mutations: 3, gc: [0.4, 0.6]")
    found = campaign(flat)
    bench = found.workbench
    allowed = bench.space.decode(bench.space.uniform(20, torch.Generator().manual_seed(0)))
    found.tell(pd.DataFrame({"object": [*allowed, "AAAAAAAA"], "y": [5.0] * 21}))
    seen = training_set(bench)
    surrogate = new_surrogate(bench, choose_surrogate(bench.config.surrogate, bench.space, n_labels=21))
    fit_to(surrogate, labels_of(bench, seen))
    states = drifted(bench.space, surrogate, allowed, [5.0] * 20, 6, known=set(), seed=0)
    texts = bench.space.decode(states)
    assert len(texts) == 6
    assert [bench.space.validate(text) for text in texts] == [None] * 6


def test_nothing_drifts_where_all_that_is_known_breaks_the_rules_of_today(campaign):
    plain = said("alphabet: dna, length: 8", CAMPAIGN.replace("{steps: 3, evaluations: 200}", "{type: random}"))
    found = campaign(plain.replace("rounds: 2", "rounds: 4"))
    found.tell(found.ask()[["object"]].assign(y=5.0))
    found.tell(found.ask()[["object"]].assign(y=5.0))
    known = set(found.history()["object"])
    last = sorted("ACGT", key=lambda letter: sum(text[-1] == letter for text in known))
    free = next(a + b for a in last for b in last if not any(text.endswith(a + b) for text in known))
    text = plain.replace("length: 8", f"length: 8, letters: {{7: {free[0]}, 8: {free[1]}}}")
    found = campaign(text.replace("rounds: 2", "rounds: 4"))
    assert found.ask()["object"].str.endswith(free).all()


def test_outside_sequences_that_cannot_be_measured_are_learned_from(campaign):
    found = campaign(said("alphabet: protein, length: 6, wild_type: MKTWYA, max_mutations: 2"))
    objects = ["MKTWYA", "AKTWYA", "CCCCCC", "DDDDDD", "EEEEEE"]
    kinds = ["=", "=", "infeasible", "infeasible", "infeasible"]
    found.tell(pd.DataFrame({"object": objects, "y": [1.0, 2.0, "", "", ""], "y_qualifier": kinds}))
    assert found.run_round() is not None
    assert found.status().candidates_measured == 10
