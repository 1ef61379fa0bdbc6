"""The flows on a real embedded server: what each run says, what Prefect shows, who trains, who is swept up."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCENES = Path(__file__).with_name("flow_scenes.py")
PATIENCE_S = 540


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what came of the scenes, played once."""
    folder = tmp_path_factory.mktemp("scenes")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    done = subprocess.run(
        [sys.executable, str(SCENES), str(folder)],
        env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def states(scene: dict[str, Any], *names: str) -> list[tuple[int | None, str]]:
    return [(scene[name]["round"], scene[name]["state"]) for name in names]


def test_run_says_what_came_of_it_and_is_found_by_campaign_and_round(scenes: dict[str, Any]) -> None:
    alone = scenes["alone"]
    assert [(one["round"], one["state"]) for one in alone["outcomes"]] == [
        (1, "complete"),
        (2, "complete"),
        (None, "finished"),
    ]
    assert alone["outcomes"][-1]["why"] == "all 2 rounds are done"
    tags = ["flowscout", "campaign:Alone.1"]
    assert sorted(alone["runs"]) == [
        ["Alone.1 finished", tags, "COMPLETED", "Finished"],
        ["Alone.1 round 1", [*tags, "round:1"], "COMPLETED", "Completed"],
        ["Alone.1 round 2", [*tags, "round:2"], "COMPLETED", "Completed"],
    ]
    links = [{"flow": "discovery-round", "run_id": run_id, "stage": "round"} for run_id in alone["run_ids"]]
    assert alone["links"] == links  # the history names the runs that worked for each round


def test_page_shows_each_stage_of_a_round_once_and_the_best_so_far(scenes: dict[str, Any]) -> None:
    alone = scenes["alone"]
    kinds = {"batch": "table", "surrogate": "markdown", "sampler": "markdown", "results": "progress"}
    wanted = [(f"alone-1-round-{n}-{what}", kind) for n in (1, 2) for what, kind in kinds.items()]
    shown = [(key, kind) for key, kind, _, _ in alone["artifacts"]]
    assert sorted(shown) == sorted([*wanted, *[("alone-1-best-so-far", "markdown")] * 2])
    assert all(f"uuid {alone['uuid']}, round " in said for _, _, said, _ in alone["artifacts"])
    pages = {key: data for key, _, said, data in alone["artifacts"] if said.endswith("round 2")}
    assert len(json.loads(pages["alone-1-round-2-batch"])) == 4
    assert pages["alone-1-round-2-results"] == 100
    assert "(data:image/png;base64," in pages["alone-1-best-so-far"]
    assert "(data:image/png;base64," in pages["alone-1-round-2-sampler"]


def test_run_of_a_campaign_in_other_hands_ends_and_says_whose(scenes: dict[str, Any]) -> None:
    assert states(scenes["busy"], "round", "collecting") == [(None, "busy"), (None, "busy")]
    assert "is being run by process" in scenes["busy"]["round"]["why"]


def test_gpu_counts_as_there_only_when_somebody_asks_its_queue_for_work(scenes: dict[str, Any]) -> None:
    handed = scenes["handed"]
    assert [handed[name] for name in ("before_a_pool", "before_a_poll", "after_a_poll")] == [False, False, True]


def test_training_is_handed_over_taken_up_and_the_round_goes_on(scenes: dict[str, Any]) -> None:
    handed = scenes["handed"]
    assert states(handed, "first", "handed", "meanwhile") == [(1, "complete"), (2, "training"), (2, "training")]
    [asked] = handed["parameters"]
    assert (asked["campaign"], asked["number"]) == ("handed", 2)
    assert set(asked) == {"campaign", "config_sha256", "number", "resume"}  # ids only
    assert states(handed, "trained", "again", "second") == [(2, "trained"), (2, "not_due"), (2, "complete")]
    assert handed["resumed"] == [{"campaign": "handed"}]  # once


def test_training_that_nobody_takes_up_is_done_by_the_next_round_and_whoever_is_late_does_nothing(
    scenes: dict[str, Any],
) -> None:
    handed = scenes["handed"]
    assert states(handed, "third_handed", "third", "late") == [(3, "training"), (3, "complete"), (3, "not_due")]
    assert handed["events"] == [2, 3]
    assert [2, "train-sampler", "train"] in handed["links"]
    assert [3, "train-sampler", "train"] not in handed["links"]


def test_sweep_marks_runs_of_the_dead_only_and_starts_once_what_they_left(scenes: dict[str, Any]) -> None:
    swept = scenes["swept"]
    assert swept["states"] == {
        "dead": "CRASHED",
        "living": "RUNNING",
        "elsewhere": "RUNNING",
        "young": "RUNNING",
        "foreign": "RUNNING",
    }
    assert swept["sweeps"] == [{"calls": 0, "marked": 1, "started": 1}, {"calls": 0, "marked": 0, "started": 0}]
    assert swept["started"] == [{"campaign": swept["uuid"]}]
    assert swept["abandoned"] == [[True, "its process is gone"]]
