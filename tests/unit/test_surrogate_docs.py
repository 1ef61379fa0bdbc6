"""What docs/surrogates.md says is what the code does."""

import re
from pathlib import Path

import pytest

from flowscout import surrogates

TEXT = (Path(__file__).parents[2] / "docs" / "surrogates.md").read_text()


@pytest.mark.filterwarnings("error")
def test_the_blocks_run_in_order() -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len(blocks) == 6
    exec(compile("\n".join(blocks), "docs/surrogates.md", "exec"), {"__name__": "surrogates"})


def test_every_acquisition_of_the_table_is_exported() -> None:
    named = re.findall(r"^\| `(\w+)` \|", TEXT, flags=re.MULTILINE)
    assert len(named) == 7
    assert set(named) <= set(surrogates.__all__)
