"""Ask for a batch, have it measured by whom you like, tell what came back: a campaign without a scheduler.

python examples/laboratory/ask_and_tell.py [DATABASE]
"""

import sys
from pathlib import Path

import pandas as pd

from flowscout import Campaign

HERE = Path(__file__).parent


def measure(batch: pd.DataFrame) -> pd.DataFrame:
    """Stand for the bench: this one likes GATA. Rows may come back in any order, and some later."""
    values = [10.0 * text.count("GATA") + text.count("G") for text in batch["object"]]
    return batch[["object"]].assign(affinity=values).sample(frac=1.0, random_state=0)


def main(database: str | None) -> None:
    """Run two rounds, the second of them told in two parts."""
    with Campaign.from_yaml(HERE / "campaign.yaml", db=database) as campaign:
        plate = measure(campaign.ask())
        campaign.tell(plate, source="plate-1")

        plate = measure(campaign.ask())
        campaign.tell(plate.head(5), source="plate-2")
        print(f"{len(campaign.ask())} of the second plate still wait")
        campaign.tell(plate, source="plate-2")  # the first five rows are known: they change nothing
        print(campaign.best(5).to_string(index=False))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
