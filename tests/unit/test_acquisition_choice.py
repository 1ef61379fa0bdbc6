"""Acquisitions of the campaign file as rewards: one object, one reward, also when the round is rebuilt."""

import math
from pathlib import Path

import pytest
import torch

from flowscout import Campaign
from flowscout.db import MeasurementRecord, Qualifier
from flowscout.errors import ConfigError
from flowscout.loop import stages
from flowscout.loop.acquisition_choice import make_acquisition
from flowscout.loop.beliefs import MIN_FAILURES, make_problem
from flowscout.loop.config import AcquisitionSection, parse_campaign
from flowscout.loop.rewards import TEMPERING, freeze_reward, soft_floor
from flowscout.loop.spaces import SequenceSpace
from flowscout.loop.workbench import hold_campaign
from flowscout.surrogates import CanonicalSurrogate, DeepEnsemble, ExactGP, FrozenAcquisition, TrainingOptions

SPACE = SequenceSpace("dna", 6, strand="double")
TYPES = ["ucb", "log_ei", "q_log_ei", "q_ucb", "mes", "thompson"]

CAMPAIGN = """\
campaign: binders
seed: 3
space: {type: sequence, alphabet: dna, length: 5, strand: double}
objectives: [{name: y, direction: minimize}]
oracle: assay:score
proposer: {type: local_search}
acquisition: {type: TYPE}
batch: {size: 3}
budget: {rounds: 4}
device: cpu
"""
ASSAY = "def score(objects): return [0.1 * o.count('C') - o.count('AA') - o.count('TT') for o in objects]\n"


def every_nth(n):
    return SPACE.enumerate()[torch.arange(0, 4096, n)]


def gp():
    surrogate = ExactGP(symmetry=SPACE.symmetry)
    X = SPACE.features(every_nth(97))
    surrogate.fit(X, (X == 2).sum(dim=1, keepdim=True).double())
    return surrogate


def ensemble():
    options = TrainingOptions(width=8, max_steps=40)
    surrogate = CanonicalSurrogate(DeepEnsemble(levels=4, members=4, options=options), SPACE.symmetry)
    X = SPACE.features(every_nth(97))
    surrogate.fit(X, (X == 2).sum(dim=1, keepdim=True).double())
    return surrogate


def acquisition(kind, surrogate):
    labelled = SPACE.features(every_nth(97))
    return make_acquisition(
        AcquisitionSection(type=kind),
        surrogate,
        labelled=labelled,
        best=4.0,
        pending=SPACE.features(every_nth(1001)),
        reference=SPACE.features(every_nth(11)),
        seed=5,
    )


@pytest.mark.parametrize("make", [gp, ensemble])
@pytest.mark.parametrize("kind", TYPES)
def test_an_object_has_one_reward_alone_among_others_and_on_either_strand(kind, make):
    frozen, objects = acquisition(kind, make()), ["ACGTTG", "GGGGGG", "AAACCC", "GGTCCA"]
    reward = freeze_reward(
        frozen, SPACE.features, reference=every_nth(7), known=every_nth(97), log_size=math.log(SPACE.size)
    )
    together = reward(SPACE.parse(objects))
    assert together.isfinite().all()
    alone = torch.cat([reward(SPACE.parse([text])) for text in objects])
    image = [SPACE.rules.reverse_complement(text) for text in objects]
    again = freeze_reward(
        acquisition(kind, make()), SPACE.features, reference=every_nth(7), known=every_nth(97), log_size=8.3
    ).with_exponent(reward.exponent)
    # Sums over labels are taken in another order for another number of rows, and the logarithm of a small
    # improvement multiplies that by up to the square of its depth in sds.
    torch.testing.assert_close(together, alone, rtol=1e-7, atol=1e-6)
    torch.testing.assert_close(together, reward(SPACE.parse(image)), rtol=1e-7, atol=1e-6)
    assert torch.equal(together, again(SPACE.parse(objects)))


def test_a_thompson_draw_of_a_gp_goes_through_a_joint_draw_and_varies_as_much():
    surrogate, anchors = gp(), SPACE.features(every_nth(41))
    draws = [
        make_acquisition(
            AcquisitionSection(type="thompson"),
            surrogate,
            labelled=anchors[:10],
            best=4.0,
            pending=anchors[:0],
            reference=anchors,
            seed=seed,
        )(anchors)
        for seed in range(300)
    ]
    found = torch.stack(draws)
    mean, sd = surrogate.mean_sd(anchors)
    # Five standard errors over 300 draws, of the mean and of the sd.
    assert ((found.mean(0) - mean).abs() <= 5 * sd / 300**0.5 + 1e-6).all()
    assert ((found.std(0) / sd - 1).abs() <= 5 / 600**0.5).all()


def test_a_logarithm_is_multiplied_directly_down_to_its_floor():
    values = torch.linspace(-400.0, 0.0, 4096, dtype=torch.float64)
    frozen = FrozenAcquisition("log", True, lambda X: values[(X * 4.0 ** torch.arange(6)).sum(1).long()])
    reward = freeze_reward(frozen, SPACE.features, reference=every_nth(1), known=every_nth(97), log_size=8.0)
    top = values.quantile(0.995).item()
    assert (reward.centre, reward.scale) == (0.0, 1.0)
    assert reward.exponent == pytest.approx(TEMPERING * 8.0 / (top - values.median().item()), rel=1e-9)
    assert reward.floor == pytest.approx(2 * values.median().item() - top)
    assert reward.floor_share == pytest.approx((values < reward.floor).double().mean().item())
    above = torch.tensor([reward.floor, -10.0, 0.0, 3.0], dtype=torch.float64)
    assert torch.equal(reward.of_values(above), reward.exponent * above)
    assert reward.as_dict()["floor_share"] == reward.floor_share


def test_the_soft_floor_keeps_order_and_has_no_kink():
    floor = -5.0
    values = torch.linspace(-1e4, 2.0, 5000, dtype=torch.float64)
    found = soft_floor(values, floor)
    assert (found.diff() > 0).all()
    assert found.min() > floor - 10.0  # log(1 + 1e4) is 9.2
    near = torch.tensor([floor - 1e-6, floor, floor + 1e-6], dtype=torch.float64)
    left, right = (soft_floor(near, floor).diff() / 1e-6).tolist()
    assert left == pytest.approx(right, abs=1e-5)  # the slope below falls as 1 / (1 + depth)


def opened(folder: Path, kind: str, **lines: str) -> Campaign:
    folder.mkdir(exist_ok=True)
    (folder / "assay.py").write_text(ASSAY)
    text = CAMPAIGN.replace("TYPE", kind)
    (folder / "c.yaml").write_text(text + "".join(f"{name}: {value}\n" for name, value in lines.items()))
    return Campaign.from_yaml(folder / "c.yaml")


@pytest.mark.parametrize("kind", TYPES)
def test_the_reward_that_a_batch_is_chosen_by_is_the_one_that_was_trained_on_to_the_last_bit(tmp_path, kind):
    with opened(tmp_path / kind, kind) as campaign:
        campaign.run_round()
        with hold_campaign(campaign.workbench) as bench:
            number = stages.plan(bench)
            stages.fit(bench, number)
            record = bench.history.rounds.get(bench.campaign.id, number)
            fitted = bench.history.rounds.fit(record.id)
            first = make_problem(bench, record, fitted).reward
            run = stages.train(bench, number)
            # What is told meanwhile is for the next round.
            late = MeasurementRecord("AACCC", "AACCC", "y", -9.0, source="late", row_id="1")
            bench.history.measurements.add(bench.campaign.id, [late], actor="test")
            again = make_problem(bench, record, fitted, stored=run).reward
            states = bench.space.enumerate()
            assert torch.equal(first(states), again(states))
            assert run.reward["acquisition"] == {"mes": "max_value_entropy"}.get(kind, kind)
            assert ("floor_share" in run.diagnostics) == (kind in ("log_ei", "q_log_ei"))
            stages.propose(bench, number)


def test_what_is_pending_is_known_to_the_reward_and_stored_with_the_sampler(tmp_path):
    with opened(tmp_path / "pending", "q_log_ei") as campaign:
        campaign.run_round()
        with hold_campaign(campaign.workbench) as bench:
            number = stages.plan(bench)
            stages.fit(bench, number)
            record = bench.history.rounds.get(bench.campaign.id, number)
            fitted = bench.history.rounds.fit(record.id)
            before = make_problem(bench, record, fitted)
            run = stages.train(bench, number)
            assert run.reward["pending"] == []
            best = before.space.decode(before.labelled)[0]
            waiting = {**run.reward, "pending": [best, "AAAAT"]}
            after = make_problem(bench, record, fitted, stored=type(run)(**{**vars(run), "reward": waiting}))
            assert after.reward.X_pending.shape == (2, 5)
            states = bench.space.parse(["AAAAT"])
            assert after.reward(states).item() < before.reward(states).item()


def test_where_objects_failed_the_reward_is_lower_and_few_failures_change_nothing(tmp_path):
    with opened(tmp_path / "failures", "ucb") as campaign:
        campaign.run_round()
        bench = campaign.workbench

        def fail(*objects):
            rows = [
                MeasurementRecord(bench.space.key(o), o, "y", None, "robot", o, qualifier=Qualifier.INFEASIBLE)
                for o in objects
            ]
            bench.history.measurements.add(bench.campaign.id, rows, actor="test")

        with hold_campaign(bench) as held:
            number = stages.plan(held)
            stages.fit(held, number)
            record = held.history.rounds.get(held.campaign.id, number)
            fitted = held.history.rounds.fit(record.id)
            plain = make_problem(held, record, fitted).reward
            fail("GGGAC", "GGGAA")
            assert MIN_FAILURES == 3
            states = held.space.parse(["GGGAG", "GGGAC", "GTCCC"])  # the last is the other strand of GGGAC
            assert torch.equal(make_problem(held, record, fitted).reward(states), plain(states))
            fail("GGGCA", "GGGCC")
            lowered = make_problem(held, record, fitted).reward
            assert (lowered(states) < plain(states)).all()
            assert lowered(states)[1].item() == pytest.approx(lowered(states)[2].item(), abs=1e-9)
            run = stages.train(held, number)
            assert len(run.reward["infeasible"]) == 4
            fail("GGGTT")  # later: this round does not know it
            again = make_problem(held, record, fitted, stored=run).reward
            assert torch.equal(again(states), lowered(states))
            proposals = stages.propose(held, number)
            X = held.space.features(held.space.parse([p.object for p in proposals]))
            expected = again.of_values(again.acquisition(X), X).tolist()
            # 1e-9: the pool was valued in one call.
            assert [p.log_reward for p in proposals] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{type: log_ei, kappa: 2}", "acquisition.kappa is 2.0 and acquisition.type 'log_ei'"),
        ("{type: pi}", "acquisition.type is 'pi'"),
    ],
)
def test_a_section_that_cannot_be_is_refused(section, message):
    text = CAMPAIGN.replace("{type: TYPE}", section)
    with pytest.raises(ConfigError, match=message):
        parse_campaign(text, name="c.yaml")
