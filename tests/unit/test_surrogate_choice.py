"""Which surrogate a campaign file means, that the reason is stored, and that a rebuilt one is what it was."""

from pathlib import Path

import pytest
import torch

from flowscout import Campaign
from flowscout.errors import ConfigError
from flowscout.loop import stages
from flowscout.loop.config import SurrogateSection, parse_campaign
from flowscout.loop.fitting import load_surrogate
from flowscout.loop.spaces import CatalogueSpace, SequenceSpace
from flowscout.loop.surrogate_choice import (
    MAX_AVERAGED,
    MAX_EXACT,
    SurrogateChoice,
    choose_surrogate,
    make_surrogate,
    stored_choice,
)
from flowscout.loop.workbench import hold_campaign
from flowscout.surrogates import (
    SVGP,
    AveragedGP,
    BotorchSurrogate,
    CanonicalSurrogate,
    DeepEnsemble,
    ExactGP,
    PairwiseLinear,
    canonical,
)

DNA, DOUBLE = SequenceSpace("dna", 6), SequenceSpace("dna", 6, strand="double")

CAMPAIGN = """\
campaign: binders
seed: 3
space: {type: sequence, alphabet: dna, length: 4}
objectives: [{name: y, direction: maximize}]
oracle: assay:score
proposer: {type: local_search}
surrogate: SURROGATE
batch: {size: 4}
budget: {rounds: 6}
device: cpu
"""
ASSAY = """\
from botorch.models import SingleTaskGP
from flowscout.surrogates import PairwiseLinear

def score(objects):
    return [o.count('A') - 0.1 * o.count('C') for o in objects]

def of_space(space):
    return PairwiseLinear(levels=len(space.rules.letters))

def of_nothing():
    return PairwiseLinear(levels=4)

def of_data(X, Y):
    return SingleTaskGP(X, Y, outcome_transform=None)

def of_no_use(space):
    return 7
"""


def opened(folder: Path, surrogate: str) -> Campaign:
    folder.mkdir(exist_ok=True)
    (folder / "own.py").write_text(ASSAY)
    (folder / "assay.py").write_text(ASSAY)
    (folder / "c.yaml").write_text(CAMPAIGN.replace("SURROGATE", surrogate))
    return Campaign.from_yaml(folder / "c.yaml")


def made(kind, space=DNA, n=100, **options):
    section = SurrogateSection(type=kind, **options)
    return make_surrogate(choose_surrogate(section, space, n_labels=n), space, folder=Path())


def inner(surrogate):
    return surrogate.surrogate if isinstance(surrogate, CanonicalSurrogate) else surrogate


@pytest.mark.parametrize("space", [DNA, DOUBLE])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("auto", AveragedGP),
        ("gp", ExactGP),
        ("linear", PairwiseLinear),
        ("ensemble", DeepEnsemble),
        ("svgp", SVGP),
    ],
)
def test_each_type_is_made_and_knows_both_strands_as_one(kind, expected, space):
    surrogate = made(kind, space)
    assert type(inner(surrogate)) is expected
    X = space.features(space.enumerate())[torch.arange(0, 4096, 171)]
    surrogate.fit(X, (X == 2).sum(1, keepdim=True).double())
    mean, sd = surrogate.mean_sd(X)
    assert mean.isfinite().all() and sd.isfinite().all()  # noqa: PT018
    if space is DOUBLE:
        # 1e-9: a symmetric kernel adds in another order.
        torch.testing.assert_close(surrogate.mean_sd(space.symmetry(X))[0], mean, rtol=0, atol=1e-9)


def test_a_canonical_object_is_the_smaller_of_its_two_writings_and_stays_it():
    X = DOUBLE.features(DOUBLE.enumerate())
    found = canonical(X, DOUBLE.symmetry)
    place = 4.0 ** torch.arange(5, -1, -1, dtype=torch.float64)
    expected = torch.minimum(X @ place, DOUBLE.symmetry(X) @ place)
    assert torch.equal(found @ place, expected)
    assert torch.equal(canonical(DOUBLE.symmetry(X), DOUBLE.symmetry), found)


def test_auto_averages_gps_of_few_labels_and_says_why():
    choice = choose_surrogate(SurrogateSection(), DNA, n_labels=MAX_AVERAGED)
    assert choice.name == "averaged gp"
    assert choice.why.startswith("8,000 labels, 4 letters: exact Gaussian processes")
    more = choose_surrogate(SurrogateSection(), DNA, n_labels=MAX_AVERAGED + 1)
    assert more.name == "ensemble"
    assert more.why == "8,001 labels, 4 letters: more than the 8,000 of exact Gaussian processes"


def test_a_catalogue_has_exact_gps_up_to_their_limit_and_the_ensemble_beyond():
    X = torch.randint(4, (30, 5), generator=torch.Generator().manual_seed(0)).double()
    space = CatalogueSpace([str(k) for k in range(30)], X, metric="tanimoto")
    choice = choose_surrogate(SurrogateSection(), space, n_labels=MAX_EXACT)
    assert choice.name == "tanimoto gp"
    assert isinstance(make_surrogate(choice, space, folder=Path()), BotorchSurrogate)
    more = choose_surrogate(SurrogateSection(), space, n_labels=MAX_EXACT + 1)
    assert more.why.endswith("5,001 labels are more than the 5,000 of exact Gaussian processes")
    surrogate = make_surrogate(more, space, folder=Path())
    assert isinstance(surrogate, DeepEnsemble)
    surrogate.fit(X, X.sum(1, keepdim=True))
    assert surrogate.mean_sd(X)[0].isfinite().all()


def test_a_gp_of_too_many_labels_is_refused_with_another_way():
    with pytest.raises(ConfigError, match=r"5,001 labels, expected at most 5,000 .* auto, ensemble or svgp"):
        made("gp", n=MAX_EXACT + 1)


def test_a_choice_comes_back_from_what_is_stored_whatever_the_file_says_today():
    choice = SurrogateChoice("gp", "as the campaign file says", "pairs")
    assert stored_choice(choice.as_params(), SurrogateSection(type="linear")) == choice
    old = stored_choice({}, SurrogateSection(type="gp", kernel="pairs"))
    assert (old.name, old.kernel) == ("gp", "pairs")
    assert stored_choice({}, SurrogateSection()).name == "averaged gp"


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("{type: gp, kernel: pairs}", ExactGP),
        ("{type: linear}", PairwiseLinear),
        ("{type: 'own:of_space'}", PairwiseLinear),
        ("{type: 'own:of_nothing'}", PairwiseLinear),
        ("{type: 'own:of_data'}", BotorchSurrogate),
    ],
)
def test_a_campaign_runs_on_it_and_its_fit_is_rebuilt_to_the_last_bit_under_another_file(
    tmp_path, section, expected
):
    with opened(tmp_path / "campaign", section) as campaign:
        campaign.run_round()
        assert campaign.run_round().complete
    with opened(tmp_path / "campaign", "{type: svgp}") as campaign:
        bench = campaign.workbench
        record = bench.history.rounds.get(bench.campaign.id, 2)
        fitted = bench.history.rounds.fit(record.id)
        again = load_surrogate(bench, fitted)
        assert type(again) is expected
        kept = bench.artefacts.get(fitted.artefact)
        assert all(torch.equal(value, kept[name]) for name, value in again.state_dict().items())
        proposals = bench.history.rounds.proposals(record.id, selected=True)
        X = bench.space.features(bench.space.parse([p.object for p in proposals]))
        expected_means = torch.tensor([p.mean for p in proposals], dtype=torch.float64)
        # 1e-9: the pool was asked in one call.
        torch.testing.assert_close(again.mean_sd(X)[0], expected_means, rtol=0, atol=1e-9)


def test_why_a_surrogate_was_chosen_is_in_the_status(tmp_path):
    with opened(tmp_path / "campaign", "{type: auto}") as campaign:
        campaign.run_round()
        campaign.run_round()
        campaign.run_round()
        first, second, third = campaign.status().rounds
        assert "surrogate" not in first.surrogate
        assert second.surrogate["surrogate"] == third.surrogate["surrogate"] == "averaged gp"
        weights = third.surrogate["weight_additive"], third.surrogate["weight_pairs"]
        said = f"kernels by what they foretold: additive {weights[0]:.2f}, pairs {weights[1]:.2f}"
        assert third.surrogate["why"].endswith(said)
        assert third.surrogate["why"].startswith("8 labels, 4 letters")
        assert "; kernels by how they predict labels left out: additive" in second.surrogate["why"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            "{type: forest}",
            "surrogate.type is 'forest', expected one of auto, gp, linear, ensemble, svgp, or module",
        ),
        ("{type: 'own:'}", "surrogate.type is 'own:'"),
        ("{type: linear, kernel: pairs}", "only a gp takes a kernel"),
    ],
)
def test_a_section_that_cannot_be_is_refused(section, message):
    with pytest.raises(ConfigError, match=message):
        parse_campaign(CAMPAIGN.replace("SURROGATE", section), name="c.yaml")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{type: 'own:nowhere'}", "surrogate.type names a function that cannot be had"),
        ("{type: 'own:of_no_use'}", "own:of_no_use made a int without fit, posterior"),
    ],
)
def test_a_function_that_makes_no_surrogate_is_refused_when_it_is_needed(tmp_path, section, message):
    with opened(tmp_path / "campaign", section) as campaign:
        campaign.run_round()
        with hold_campaign(campaign.workbench) as bench, pytest.raises(ConfigError, match=message):
            stages.fit(bench, stages.plan(bench))
