"""Where a flow finds its campaign: the history that the environment names, opened once a process.

Prefect's parameters carry ids only; this turns them into a workbench.
"""

from dataclasses import replace
from functools import cache

from flowscout.db import LEASE_TTL_S, History, Lease, shown_url, this_owner
from flowscout.errors import NotFoundError
from flowscout.flows.settings import campaigns_folder, database_url
from flowscout.loop.workbench import Workbench, lay_out


def open_bench(campaign: str, config_sha256: str | None, lease_token: str | None = None) -> Workbench:
    """Return the workbench of a registered campaign, holding the lease that `lease_token` stands for.

    Raises:
        NotFoundError: the history holds no such campaign or configuration.
    """
    url = database_url()
    if config_sha256 is None:  # what is the latest may change while this process lives
        history = _history(url)
        try:
            record = history.campaigns.get(campaign)
        except NotFoundError as error:
            raise NotFoundError(
                f"the history of this worker, {shown_url(url)}, has no campaign {campaign!r}, expected the one "
                "that it was scheduled in; give `flowscout serve --db` (the worker's FLOWSCOUT_DB) that one, or "
                "schedule the campaign in this one."
            ) from error
        config_sha256 = history.campaigns.config(record.id).sha256
    bench = _lay_out(url, campaign, config_sha256)
    if lease_token is None:
        return bench
    lease = Lease(bench.campaign.id, lease_token, this_owner(), LEASE_TTL_S)
    return replace(bench, lease=lease)


def open_history() -> History:
    """Return the history that the environment names."""
    return _history(database_url())


@cache
def _lay_out(url: str, campaign: str, config_sha256: str) -> Workbench:
    return lay_out(_history(url), campaign, config_sha256=config_sha256, folder=campaigns_folder())


@cache
def _history(url: str) -> History:
    return History(url, create=False)
