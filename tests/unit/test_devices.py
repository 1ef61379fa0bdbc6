"""Every tensor of the engine is made on the device of its states, tested without a second device."""

import pytest
import torch
from engine_spaces import SPACES
from other_device import elsewhere
from test_behaviour import CONDITIONS, data_of
from test_proposers import problem
from test_resume import LEGAL, trainer_of
from test_selection import chosen

from flowscout.loop import exploration, selection
from flowscout.loop.gflownet import Trainer, estimate_log_prob
from flowscout.loop.proposers.gflownet import health_of
from flowscout.loop.spaces import SequenceSpace

CASES = [(name, loss, "uniform") for name, loss in LEGAL]
CASES += [(name, "trajectory_balance", backward) for name in ("grid", "subset") for backward in ("learned", "tlm")]


@pytest.mark.parametrize("condition", ["none", "preference"])
@pytest.mark.parametrize(("name", "loss", "backward"), CASES)
def test_no_tensor_is_made_on_the_default_device(name, loss, backward, condition):
    trainer = trainer_of(name, loss, "everything", condition=condition, backward=backward)
    given, generator = CONDITIONS[condition], torch.Generator("cpu").manual_seed(0)
    encoded = None if given is None else given.encode(given.draw(2, generator))
    objects = data_of(SPACES[name]())[:2]
    # What is made on the default device has no numbers there, and meeting it raises.
    with torch.device("meta"):
        trainer.fit(4)
        trainer.load_state_dict(trainer.state_dict())
        trainer.log_reward = trainer.log_reward
        trainer.fit(1)
        drawn = trainer.draw(2, generator=generator, condition=encoded)
        log_p = estimate_log_prob(
            trainer.space, trainer.policy, objects, samples=2, generator=generator, condition=encoded
        )
    assert drawn.log_pf.device == log_p.device == drawn.states.device == torch.device("cpu")


# Acquisitions are computed on the CPU; states, and what a space says of them, may be on a GPU.


@pytest.mark.parametrize("section", [{"select": "dpp"}, {"distance": 4}, {"select": "top", "distance": 4}])
def test_a_batch_is_chosen_of_states_on_another_device(section, monkeypatch):
    expected, _, _ = chosen(section, taken=[0])
    monkeypatch.setattr(SequenceSpace, "distance", elsewhere(SequenceSpace.distance))
    monkeypatch.setattr(selection, "similarity", elsewhere(exploration.similarity))
    assert chosen(section, taken=[0])[0] == expected


def test_a_reward_elsewhere_is_of_states_on_another_device(monkeypatch):
    made = problem()
    reward = exploration.elsewhere(made.space, made.reward, made.labelled)
    expected = reward(made.labelled)
    monkeypatch.setattr(exploration, "similarity", elsewhere(exploration.similarity))
    assert torch.equal(reward(made.labelled), expected)


def test_a_policy_is_judged_by_states_on_another_device(monkeypatch):
    made = problem()
    trainer = Trainer(made.space, made.reward, seed=0)
    expected = health_of(made.space, made.reward, trainer, 0)
    monkeypatch.setattr(SequenceSpace, "log_symmetry", elsewhere(SequenceSpace.log_symmetry))
    assert health_of(made.space, made.reward, trainer, 0) == expected
