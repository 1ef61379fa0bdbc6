"""What a person decides about a campaign's rounds: that a batch is handed out, that no round goes on for a while.

What is told of results stands in `campaign_results`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowscout.db import CampaignState, RoundRecord, RoundState
from flowscout.db.timings import BUSY_S
from flowscout.errors import StateError
from flowscout.loop.campaign_results import CampaignResults, user_name
from flowscout.loop.due import pause_deployment
from flowscout.loop.gates import awaiting_approval, waits_for_people
from flowscout.loop.workbench import at_version, hold_patiently

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("rank", "candidate_id", "object", "origin", "mean", "sd", "acquisition")


@dataclass(frozen=True)
class AwaitingBatch:
    """A batch that waits for approval, and why. No other batch has its `code`; a veto gives it another one."""

    round: int
    why: str
    code: str
    batch: "pd.DataFrame"


class CampaignGates(CampaignResults):
    """The part of `flowscout.Campaign` by which people hold rounds up and let them go on."""

    def awaiting(self) -> AwaitingBatch | None:
        """Return the batch that waits for approval: rank, candidate_id, object, origin, mean, sd, acquisition.

        None where none does. Nothing of it is handed out, called or paid; `veto` changes it.
        """
        record = awaiting_approval(self._bench.history.rounds.under_way(self._bench.campaign.id))
        if record is None:
            return None
        found = self._bench.history.approvals.batch(record.id)  # first: a veto in between is noticed, not missed
        batch = self._batch(record, set(found.candidate_ids))
        return AwaitingBatch(record.number, record.message or "", found.code, batch)

    def approve(
        self,
        round: int | None = None,  # noqa: A002
        *,
        seen: str | None = None,
        actor: str | None = None,
    ) -> "pd.DataFrame":
        """Let the batch that waits for approval be handed out; return it, with the columns of `awaiting`.

        With `seen`, the code that `awaiting` gave, only if it is still that batch. What people measure is paid
        from the budget now, as far as it reaches; workers and the next round call for the rest. The same approval
        again changes nothing.

        Raises:
            StateError: no batch waits for approval, or it is another one than was seen.
            NotFoundError: there is no such round.
            CampaignBusyError: another process holds the campaign, and went on holding it.
        """
        history, number = self._bench.history, self._bench.campaign.id
        record = awaiting_approval(history.rounds.under_way(number))
        if round is not None:
            record = history.rounds.get(number, round)
        if record is None:
            raise StateError(
                f"no batch of campaign {self.name!r} waits for approval; nothing was written. `flowscout status` "
                "shows its rounds."
            )
        if record.state is RoundState.AWAITING_APPROVAL:
            people = waits_for_people(at_version(self._bench, record.config_version_id))
            with hold_patiently(self._bench, patience_s=BUSY_S) as bench:
                who = actor or user_name()
                history.approvals.add(bench.held, record, actor=who, people=people, seen=seen)
        elif history.approvals.get(record.id) is None:
            raise StateError(
                f"round {record.number} is {record.state}, expected one whose batch waits for approval; nothing "
                "was written. `flowscout status` shows the rounds."
            )
        self._complete_if_possible()
        return self._batch(record, set(history.approvals.batch(record.id).candidate_ids))

    def pause(self, *, actor: str | None = None) -> bool:
        """Let no round start or go on until `resume`; return whether that is new. Results are still taken.

        Raises:
            StateError: the campaign is finished.
        """
        return self._move(CampaignState.ACTIVE, CampaignState.PAUSED, actor=actor)

    def resume(self, *, actor: str | None = None) -> bool:
        """Let the rounds of a paused campaign go on; return whether that is new.

        Raises:
            StateError: the campaign is finished.
        """
        return self._move(CampaignState.PAUSED, CampaignState.ACTIVE, actor=actor)

    def _move(self, before: CampaignState, state: CampaignState, *, actor: str | None) -> bool:
        campaigns, number = self._bench.history.campaigns, self._bench.campaign.id
        moved = campaigns.set_state(number, state, actor=actor or user_name(), before=before)
        if not moved and campaigns.get(number).state is CampaignState.FINISHED:
            raise StateError(
                f"campaign {self.name!r} is finished, expected one that is under way; nothing was written. A "
                "larger budget or another section `stop` in its file reopens it."
            )
        # Also where it is not new: Prefect may have been away the first time.
        pause_deployment(self._bench, paused=state is CampaignState.PAUSED)
        self._deliver()
        return moved

    def _batch(self, record: RoundRecord, candidate_ids: set[int]) -> "pd.DataFrame":
        import pandas as pd

        batch = self._bench.history.rounds.proposals(record.id, selected=True)
        rows = [
            {name: getattr(one, name) for name in _COLUMNS} for one in batch if one.candidate_id in candidate_ids
        ]
        return pd.DataFrame(rows, columns=list(_COLUMNS))
