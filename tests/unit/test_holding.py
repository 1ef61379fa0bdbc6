"""Holding a campaign: whoever holds it gives it back, whatever goes wrong."""

import threading

import pytest
from sqlalchemy.exc import OperationalError

from flowscout import Campaign
from flowscout.loop import notices
from flowscout.loop.workbench import hold_campaign

CAMPAIGN = """\
campaign: binders
space: {type: sequence, alphabet: dna, length: 4}
objectives: [{name: y, direction: maximize}]
oracle: {type: lab}
proposer: {type: random}
batch: {size: 2}
budget: {rounds: 3}
"""


def test_campaign_is_given_back_where_the_database_goes_away_just_after_it_was_taken(tmp_path, monkeypatch):
    def away(*_):
        raise OperationalError("SELECT 1", {}, Exception("the server closed the connection"))

    (tmp_path / "c.yaml").write_text(CAMPAIGN)
    with Campaign.from_yaml(tmp_path / "c.yaml") as campaign:
        bench = campaign.workbench
        with monkeypatch.context() as broken:
            broken.setattr(notices, "is_scheduled", away)
            with pytest.raises(OperationalError), hold_campaign(bench):
                pass
        assert "flowscout-lease" not in [thread.name for thread in threading.enumerate()]
        with hold_campaign(bench):  # nobody has it
            pass
