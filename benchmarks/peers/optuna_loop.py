"""Optuna's ask/tell loop at the calls of `throughput.py`. Runs in Optuna's own environment.

Nothing of Flowscout is imported here.
"""

import time
from typing import Any

import optuna
from loop_protocol import Watch, call, options, report


class Sampler(optuna.samplers.RandomSampler):
    """Random sampling, with a stop-watch."""

    def __init__(self, watch: Watch) -> None:
        super().__init__(seed=0)
        self._watch = watch

    def sample_independent(self, *arguments: Any, **named: Any) -> Any:
        """Draw a parameter."""
        with self._watch.running():
            return super().sample_independent(*arguments, **named)


def main() -> None:
    """Ask, call and tell, and print how long it took."""
    wanted = options()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    watch, whole = Watch(), Watch()
    study = optuna.create_study(storage=wanted.url, sampler=Sampler(watch), direction="maximize")
    done, started = 0, time.perf_counter()
    with whole.running():
        while done < wanted.calls and time.perf_counter() - started < wanted.limit_s:
            trial = study.ask()
            study.tell(trial, call(trial.suggest_float("x", 0, 1)))
            done += 1
    assert len(study.trials) == done
    report(system=f"optuna {optuna.__version__}", calls=done, whole=whole, choosing=watch)


if __name__ == "__main__":
    main()
