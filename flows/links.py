"""How a round is found from Prefect's page, and Prefect's runs from the history: names, tags, keys.

Pure functions of what the history says; who writes them anywhere is `flows.runs` and `flows.artifacts`.
"""

import re

from flowscout.db import CampaignRecord

ALL = "flowscout"
"""The tag of everything that is ours."""


def run_name(campaign: str, number: int) -> str:
    """Return what the run of a round is called in Prefect's lists."""
    return f"{campaign} round {number}"


def run_tags(campaign: str, number: int | None = None) -> list[str]:
    """Return the tags by which the runs of a campaign, or of one round of it, are filtered."""
    return [ALL, f"campaign:{campaign}", *([] if number is None else [f"round:{number}"])]


def artifact_key(campaign: str, what: str, number: int | None = None) -> str:
    """Return the key of an artifact: small letters, digits and dashes, which is all that Prefect takes.

    Names that differ in other characters only share a key; each artifact's description says whose it is.
    """
    said = campaign if number is None else f"{campaign} round {number}"
    return re.sub(r"[^a-z0-9]+", "-", f"{said} {what}".lower()).strip("-")


def description(campaign: CampaignRecord, number: int | None = None) -> str:
    """Return what leads from an artifact to the rows of the history."""
    said = f"Campaign {campaign.name}, uuid {campaign.uuid}"
    return said if number is None else f"{said}, round {number}"
