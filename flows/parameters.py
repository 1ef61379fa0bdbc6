"""What flows take as parameters: names and ids of what is registered, never a path, a command or a file's text.

Prefect checks them before a run is made, by the schema that a deployment has of its flow.
"""

from typing import Annotated

from pydantic import Field

CampaignId = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        min_length=1,
        max_length=200,
        description="Name or uuid of a registered campaign.",
    ),
]
ConfigSha = Annotated[
    str,
    Field(
        pattern=r"^[0-9a-f]{64}$",
        description="Hash of the version of its file to work by; none: the latest.",
    ),
]
