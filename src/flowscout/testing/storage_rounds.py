"""What a storage guarantees of campaigns and rounds: one runner at a time, and only legal steps."""

import math
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from flowscout.db import (
    CampaignState,
    FitRecord,
    History,
    Lease,
    ObjectiveRecord,
    RoundRecord,
    RoundState,
    SamplerRecord,
    this_owner,
)
from flowscout.errors import CampaignBusyError, LeaseLostError, NotFoundError, StateError
from flowscout.testing.histories import (
    CONFIG,
    FOREIGN_OWNER,
    ORACLE,
    PROPERTY,
    HistoryFixtures,
    Scene,
    dead_owner,
    measured,
    proposal,
)

FIT = FitRecord(kind="gp", seed=1, data_upto_seq=0, data_count=0, data_sha256="b" * 64)
WRITES: dict[str, Callable[[History, Lease, RoundRecord], object]] = {
    "renew_lease": lambda h, lease, _: h.campaigns.renew_lease(lease),
    "start": lambda h, lease, r: h.rounds.start(lease, 2, seed=1, config_version_id=r.config_version_id),
    "advance": lambda h, lease, r: h.rounds.advance(lease, r, RoundState.FITTING),
    "record_fit": lambda h, lease, r: h.rounds.record_fit(lease, r, FIT),
    "record_sampler": lambda h, lease, r: h.rounds.record_sampler(lease, r, SamplerRecord("gflownet", 1, 1)),
    "record_proposals": lambda h, lease, r: h.rounds.record_proposals(
        lease, r, [proposal("a", 1)], sampler_run_id=None, oracle=ORACLE
    ),
}
TABLES = (
    "campaign", "round", "model_fit", "sampler_run", "artefact", "candidate", "proposal", "oracle",
    "evaluation", "event",
)  # fmt: skip


class RoundContract(HistoryFixtures):
    """Test what is stored of campaigns, their leases and their rounds."""

    def test_a_campaign_registered_again_is_the_same_with_a_new_version(self, scene: Scene) -> None:
        campaigns = scene.history.campaigns
        second = replace(CONFIG, sha256="1" * 64, yaml="campaign: c\nseed: 3\n")
        wanted = [ObjectiveRecord(PROPERTY, "minimize")]
        for config in (CONFIG, second, second):
            again = campaigns.register(
                scene.campaign.name, config, objectives=wanted, seed=3, limit_minor=5, actor="test"
            )
            assert (again.id, again.uuid, again.seed) == (scene.campaign.id, scene.campaign.uuid, 2**62 - 1)
        assert campaigns.config(again.id).number == 2
        assert campaigns.config(again.id, sha256=CONFIG.sha256).yaml == CONFIG.yaml
        assert campaigns.objectives(again.id) == wanted
        assert scene.history.queries.status(again.id, PROPERTY, direction="minimize").limit_minor == 5

    def test_what_is_not_there_is_said_with_what_is(self, scene: Scene) -> None:
        with pytest.raises(NotFoundError, match=r"it holds: campaign"):
            scene.history.campaigns.get("camping")
        with pytest.raises(NotFoundError, match=r"no configuration"):
            scene.history.campaigns.config(scene.campaign.id, sha256="2" * 64)
        with pytest.raises(NotFoundError, match=r"no round 9"):
            scene.history.rounds.get(scene.campaign.id, 9)

    def test_a_campaign_pauses_finishes_and_reopens(self, scene: Scene) -> None:
        def move(state: CampaignState) -> bool:
            return scene.history.campaigns.set_state(scene.campaign.id, state, actor="test")

        assert move(CampaignState.PAUSED)
        assert not move(CampaignState.PAUSED)
        assert move(CampaignState.FINISHED)
        assert not move(CampaignState.PAUSED)
        assert move(CampaignState.ACTIVE)
        assert scene.history.campaigns.get(scene.campaign.id).state is CampaignState.ACTIVE

    def test_a_second_runner_is_refused_while_the_first_lives(
        self, scene: Scene, reopen: Callable[[], History]
    ) -> None:
        with reopen() as second, pytest.raises(CampaignBusyError, match=r"being run by process \d+"):
            second.campaigns.acquire_lease(scene.campaign.id, owner=FOREIGN_OWNER)
        scene.history.campaigns.renew_lease(scene.lease)

    def test_a_dead_runners_campaign_is_taken_over_at_once(self, scene: Scene) -> None:
        campaigns = scene.history.campaigns
        campaigns.release_lease(scene.lease)
        campaigns.acquire_lease(scene.campaign.id, owner=dead_owner(), ttl_s=3600)
        assert campaigns.lease_holder(scene.campaign.id) is None
        lease = campaigns.acquire_lease(scene.campaign.id, owner=this_owner())
        campaigns.renew_lease(lease)
        assert scene.events("lease_taken_over") == 1

    def test_a_runner_of_another_host_is_respected_until_its_lease_ends(self, scene: Scene) -> None:
        campaigns = scene.history.campaigns
        campaigns.release_lease(scene.lease)
        foreign = campaigns.acquire_lease(scene.campaign.id, owner=FOREIGN_OWNER, ttl_s=3600)
        with pytest.raises(CampaignBusyError, match=r"process 1 on another-host"):
            campaigns.acquire_lease(scene.campaign.id, owner=this_owner())
        assert campaigns.lease_holder(scene.campaign.id) == "process 1 on another-host"
        campaigns.renew_lease(replace(foreign, ttl_s=0.01))
        time.sleep(0.05)
        assert campaigns.lease_holder(scene.campaign.id) is None
        campaigns.acquire_lease(scene.campaign.id, owner=this_owner())

    def test_a_lease_that_ended_may_be_renewed_if_nobody_took_it(self, scene: Scene) -> None:
        scene.history.campaigns.renew_lease(replace(scene.lease, ttl_s=0))
        scene.history.campaigns.renew_lease(scene.lease)
        assert scene.history.campaigns.lease_holder(scene.campaign.id) is not None

    def test_a_lost_lease_releases_nothing(self, scene: Scene) -> None:
        lost, _ = _take_over(scene)
        scene.history.campaigns.release_lease(lost)
        assert scene.history.campaigns.lease_holder(scene.campaign.id) is not None

    @pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
    def test_a_lost_lease_refuses_every_write_of_its_runner(
        self, scene: Scene, write: Callable[[History, Lease, RoundRecord], object]
    ) -> None:
        record = scene.start()
        lost, _ = _take_over(scene)
        before = [scene.table(name) for name in TABLES]
        with pytest.raises(LeaseLostError, match=r"nothing was written"):
            write(scene.history, lost, record)
        assert [scene.table(name) for name in TABLES] == before

    def test_a_round_started_twice_is_one_round(self, scene: Scene) -> None:
        first = scene.start(1)
        assert scene.start(1) == first
        assert scene.history.rounds.all(scene.campaign.id) == [first]
        assert scene.history.rounds.unfinished(scene.campaign.id) == first

    @pytest.mark.parametrize("target", sorted(set(RoundState) - {"fitting", "failed", "cancelled"}))
    def test_an_illegal_step_is_refused_with_those_that_are_legal(self, scene: Scene, target: RoundState) -> None:
        record = scene.start()
        with pytest.raises(StateError, match=r"is planned.*can become cancelled, failed, fitting"):
            scene.history.rounds.advance(scene.lease, record, target)
        assert scene.history.rounds.get(scene.campaign.id, 1) == record
        assert scene.events(f"round_{target}") == 0

    def test_a_complete_round_is_final(self, scene: Scene) -> None:
        record = scene.propose(["a"])
        scene.history.rounds.advance(scene.lease, record, RoundState.COMPLETE, message="done")
        done = scene.history.rounds.get(scene.campaign.id, 1)
        assert (done.state, done.message) == (RoundState.COMPLETE, "done")
        assert done.finished_at is not None
        assert done.finished_at >= done.created_at
        assert scene.history.rounds.unfinished(scene.campaign.id) is None
        with pytest.raises(StateError, match=r"nothing: it is final"):
            scene.history.rounds.advance(scene.lease, record, RoundState.FAILED)

    def test_a_fit_and_its_sampler_come_back_as_they_were_stored(self, scene: Scene) -> None:
        scene.tell(measured("a"), measured("b"))
        record = scene.train()
        assert record.state is RoundState.TRAINING
        fit, sampler = scene.history.rounds.fit(record.id), scene.history.rounds.sampler(record.id)
        assert fit is not None
        assert sampler is not None
        data = scene.history.measurements.training_set(scene.campaign.id, PROPERTY, upto_seq=fit.data_upto_seq)
        assert (fit.data_count, fit.data_sha256) == (2, data.sha256)
        assert fit.params == {"kernel": {"name": "tanimoto"}}
        assert fit.artefact is not None
        assert fit.artefact.size_bytes == 2**40
        assert sampler.model_fit_id == fit.id
        assert scene.history.rounds.previous_sampler(scene.campaign.id, 2, kind="gflownet") == sampler
        assert scene.history.rounds.previous_sampler(scene.campaign.id, 1, kind="gflownet") is None

    def test_a_figure_that_is_no_number_is_stored_as_none(self, scene: Scene) -> None:
        record = scene.train(diagnostics={"spearman": math.nan, "slopes": [1.0, -math.inf]})
        fit = scene.history.rounds.fit(record.id)
        assert fit is not None
        assert fit.diagnostics == {"spearman": None, "slopes": [1.0, None]}

    def test_a_round_in_training_cannot_be_fitted_twice(self, scene: Scene) -> None:
        record = scene.start()
        with pytest.raises(StateError, match=r"cannot become training"):
            scene.history.rounds.record_fit(scene.lease, record, FIT)
        assert scene.history.rounds.fit(record.id) is None

    def test_proposals_are_stored_whole_or_not_at_all(self, scene: Scene) -> None:
        scene.propose(["a"])
        record = scene.train(2)
        before = [scene.table(name) for name in TABLES if name != "campaign"]
        batch = [proposal("b", 1), proposal("c"), proposal("a", 2)]
        with pytest.raises(StateError, match=r"'a'.*evaluat"):
            scene.history.rounds.record_proposals(scene.lease, record, batch, sampler_run_id=None, oracle=ORACLE)
        assert [scene.table(name) for name in TABLES if name != "campaign"] == before
        assert scene.history.rounds.proposals(record.id) == []

    def test_proposals_come_back_batch_first_then_by_acquisition(self, scene: Scene) -> None:
        record = scene.train()
        batch = [
            proposal("e", acquisition=None),
            proposal("d", acquisition=0.1),
            proposal("c", acquisition=0.9, reason="too near"),
            proposal("b", 2, acquisition=0.2),
            proposal("a", 1, acquisition=0.1, mean=0.5, sd=0.1, log_prob=-3.5, log_reward=2.0),
        ]
        scene.history.rounds.record_proposals(scene.lease, record, batch, sampler_run_id=None, oracle=ORACLE)
        found = scene.history.rounds.proposals(record.id)
        assert [p.object for p in found] == ["a", "b", "c", "d", "e"]
        assert [replace(p, candidate_id=None) for p in found] == batch[::-1]
        assert [p.object for p in scene.history.rounds.proposals(record.id, selected=True)] == ["a", "b"]
        assert scene.history.queries.pending(scene.campaign.id) == ["a", "b"]


def _take_over(scene: Scene) -> tuple[Lease, Lease]:
    """Let the scene's lease end and another host's process take it; return the lost one and the new one."""
    scene.history.campaigns.renew_lease(replace(scene.lease, ttl_s=0))
    return scene.lease, scene.history.campaigns.acquire_lease(scene.campaign.id, owner=FOREIGN_OWNER)
