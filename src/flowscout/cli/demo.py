"""The demonstration: a whole campaign on measured data, from the first line to the picture."""

import time
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowscout.cli.campaigns import AsJson
from flowscout.cli.live import doing
from flowscout.cli.output import print_json, print_rows, say
from flowscout.cli.running import run_shown, scheduler
from flowscout.errors import ConfigError
from flowscout.version import __version__

if TYPE_CHECKING:
    from flowscout.loop.campaign import Campaign

N_INITIAL, N_TOP = 96, 100
N_SIMULATIONS = 1_000

CAMPAIGN = """\
# Strong binders of the human transcription factor SIX6 among all DNA 8-mers.
campaign: six6-binders
seed: SEED
# A site and its reverse complement are one object.
space: {type: sequence, alphabet: dna, length: 8, strand: double}
objectives: [{name: escore, direction: maximize}]
# Every site was measured: Barrera et al. 2016.
oracle: {type: table, path: flowscout:tfbind8_six6, value: score}
surrogate: {type: gp}
acquisition: {type: ucb, kappa: 1}
proposer: {type: gflownet, loss: trajectory_balance}
batch: {size: 24}
budget: {rounds: 8}
"""


@dataclass(frozen=True)
class Landscape:
    """All measured values, by the one name of each site: the smaller of it and its reverse complement."""

    scores: dict[str, float]
    initial: list[str]
    top: set[str]


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(epilog="Example: flowscout demo --seed 7")(demo)


def demo(
    folder: Annotated[
        Path | None, typer.Option(help="A new folder to write to; default: flowscout-demo/run-N.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides the starting labels and every random choice.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Find strong binders of a transcription factor from real measurements, in about a minute."""
    began = time.monotonic()
    if not as_json:
        say(
            f"Flowscout {__version__}: which DNA 8-mers does the human transcription factor SIX6 bind?",
            style="bold",
        )
    home = _make_folder(folder)
    path = home / "campaign.yaml"
    path.write_text(CAMPAIGN.replace("SEED", str(seed)), encoding="utf-8")
    with scheduler(home / "six6-binders.files" / "prefect", quiet=as_json) as server:
        from flowscout.loop.campaign import Campaign

        with Campaign.from_yaml(path) as found:
            landscape = _start(found, seed)
            if not as_json:
                _introduce(landscape)
            if server is not None:
                _wait(server, quiet=as_json)
            run_shown(found, quiet=as_json)
            summary = _summary(found, landscape, seed)
            summary["picture"] = str(_draw(found, landscape, home / "report.png"))
            summary["history"] = str(home / f"{found.name}.db")
            summary["seconds"] = round(time.monotonic() - began, 1)
            if as_json:
                print_json(summary)
            else:
                _show(summary, path)


def _make_folder(wanted: Path | None) -> Path:
    """Make and return the folder of this run.

    Raises:
        ConfigError: it is there already, or cannot be made.
    """
    parent = Path("flowscout-demo")
    taken = [int(p.name[4:]) for p in parent.glob("run-*") if p.name[4:].isdigit()]
    folder = parent / f"run-{1 + max(taken, default=0)}" if wanted is None else wanted
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise ConfigError(f"folder {str(folder)!r} is there already; name a new one with --folder.") from error
    except OSError as error:
        raise ConfigError(
            f"folder {str(folder)!r} cannot be made ({error.strerror}); name another with --folder."
        ) from error
    return folder


def _start(found: "Campaign", seed: int) -> Landscape:
    """Tell the campaign its first labels, drawn from the lower half, and return the whole landscape."""
    import numpy as np
    import pandas as pd

    from flowscout.loop.metrics import canonical, reverse_complement, true_top

    oracle: Any = found.workbench.oracle
    scores = {text: v for text, v in oracle.values.items() if text == canonical(text, reverse_complement)}
    median = float(np.median(list(oracle.values.values())))
    low = sorted(text for text, value in scores.items() if value < median)
    picks = np.random.default_rng(seed).choice(len(low), size=N_INITIAL, replace=False)
    initial = [low[i] for i in sorted(picks)]
    labels = pd.DataFrame({"object": initial, "escore": [scores[text] for text in initial]})
    found.tell(labels, source="starting-labels", actor="demo")
    return Landscape(scores, initial, true_top(scores, N_TOP, image=reverse_complement))


def _introduce(landscape: Landscape) -> None:
    best = max(landscape.scores[text] for text in landscape.initial)
    say(f"{len(landscape.scores):,} double-stranded sites, each one measured (Barrera et al. 2016)")
    say(f"known at the start: {N_INITIAL} from the lower half, the best at {best:.3f}; to spend: 192 measurements")


def _wait(server: Any, *, quiet: bool) -> None:
    if quiet:
        server.wait()
        return
    with doing("waiting for the Prefect server"):
        server.wait()


def _summary(found: "Campaign", landscape: Landscape, seed: int) -> dict[str, Any]:
    """Return what was found, and what random search finds with as many measurements."""
    from flowscout.loop.metrics import edit_distances, reverse_complement, true_top_found

    history = found.history()
    measured = history[history["round"].notna()]
    best = found.best(10)
    nearest = edit_distances(best["object"].tolist(), landscape.initial, image=reverse_complement).min(axis=1)
    best["distance_to_known"] = nearest
    best["round"] = best["round"].astype("Int64").astype(object)
    columns = ["rank", "object", "value", "distance_to_known", "round"]
    return {
        "seed": seed,
        "measurements": len(measured),
        "best": best[columns].to_dict("records"),
        "true_top100_found": true_top_found(measured["object"], landscape.top, image=reverse_complement),
        "random": _random_search(landscape, len(measured), seed),
    }


def _random_search(landscape: Landscape, n: int, seed: int) -> dict[str, float]:
    """Return means over simulated random searches among the sites that were not known."""
    import numpy as np

    unknown = sorted(landscape.scores.keys() - set(landscape.initial))
    values = np.array([landscape.scores[text] for text in unknown])
    in_top = np.array([text in landscape.top for text in unknown])
    rng = np.random.default_rng(seed)
    draws = [rng.choice(len(unknown), size=n, replace=False) for _ in range(N_SIMULATIONS)]
    return {
        "simulations": N_SIMULATIONS,
        "true_top100_found": float(np.mean([in_top[draw].sum() for draw in draws])),
        "best": float(np.mean([values[draw].max() for draw in draws])),
    }


def _draw(found: "Campaign", landscape: Landscape, path: Path) -> Path:
    """Draw best-so-far and batch diversity, and return where the picture lies."""
    from flowscout.cli.picture import draw_campaign
    from flowscout.loop.space_sections import SequenceSection

    start = max(landscape.scores[text] for text in landscape.initial)
    ceiling = max(landscape.scores.values())
    space = found.workbench.config.space
    image = space.rules.image if isinstance(space, SequenceSection) else None
    return draw_campaign(found.history(), path, value="escore", start=start, ceiling=ceiling, image=image)


def _show(summary: dict[str, Any], path: Path) -> None:
    print_rows(summary["best"], as_json=False, title="the best ten of the campaign")
    n, random = summary["measurements"], summary["random"]
    say(
        f"{summary['true_top100_found']} of the true top {N_TOP} found in {n} measurements; random search finds "
        f"{random['true_top100_found']:.1f}, its best {random['best']:.3f} (mean of {random['simulations']:,}).",
        style="bold",
    )
    say(f"picture: {summary['picture']}")
    say(f"history: {summary['history']} (SQLite; every proposal, measurement and model, also those not taken)")
    say(f"took {summary['seconds']:.0f} s. Worth trying next:")
    file = quote(str(path))
    for command in (f"best {file} -k 20", f"history {file} --round 8", f"status {file}"):
        say(f"  flowscout {command}")
