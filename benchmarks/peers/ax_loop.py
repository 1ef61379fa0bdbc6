"""Ax's ask/tell loop at the calls of `throughput.py`. Runs in Ax's own environment.

Nothing of Flowscout is imported here. Trials are asked for in batches, which is the faster way, and told one by
one as they end.
"""

import logging
import time
from importlib.metadata import version
from typing import Any
from unittest.mock import patch

from ax.api.client import Client
from ax.api.configs import RangeParameterConfig, StorageConfig
from ax.generation_strategy.generation_strategy import GenerationStrategy
from loop_protocol import Watch, call, options, report


def open_client(url: str | None) -> Client:
    """Return a client that draws at random, and keeps its trials at `url` or in memory."""
    if url is None:
        return Client(random_seed=0)
    from ax.storage.sqa_store.db import create_all_tables, get_engine, init_engine_and_session_factory

    init_engine_and_session_factory(url=url)
    create_all_tables(get_engine())
    return Client(storage_config=StorageConfig(url=url), random_seed=0)


def main() -> None:
    """Ask, call and tell, and print how long it took."""
    wanted = options()
    logging.disable(logging.CRITICAL)
    client, draw = open_client(wanted.url), GenerationStrategy.gen
    watch, whole = Watch(), Watch()
    client.configure_experiment([RangeParameterConfig(name="x", parameter_type="float", bounds=(0, 1))], name="b")
    client.configure_optimization(objective="y")
    client.configure_generation_strategy(method="random_search", initialize_with_center=False)

    def timed(*arguments: Any, **named: Any) -> Any:
        with watch.running():
            return draw(*arguments, **named)

    done, started = 0, time.perf_counter()
    with patch.object(GenerationStrategy, "gen", timed), whole.running():
        while done < wanted.calls and time.perf_counter() - started < wanted.limit_s:
            for index, parameters in client.get_next_trials(min(wanted.ask, wanted.calls - done)).items():
                client.complete_trial(index, {"y": call(float(parameters["x"]))})
                done += 1
    report(system=f"ax {version('ax-platform')}", calls=done, whole=whole, choosing=watch)


if __name__ == "__main__":
    main()
