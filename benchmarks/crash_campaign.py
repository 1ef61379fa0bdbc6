"""The campaign of `crash`: its file, what a user would write for it, and what is told of other objects."""

import random
from dataclasses import dataclass
from pathlib import Path

from crash_oracle import PRICE_MINOR

WORKERS = 4
BATCH = 12
LENGTH = 16
LEASE_S = 3.0
ROWS_TOLD = 3
LETTERS = "ACGT"

CAMPAIGN = """\
campaign: crash
seed: {seed}
space: {{type: sequence, alphabet: dna, length: {length}}}
objectives: [{{name: y, direction: maximize}}]
oracle: assay:measure
surrogate: {{type: belief:nothing}}
proposer: {{type: random}}
batch: {{size: {batch}, select: top}}
budget: {{rounds: 100000, cost: 10000000}}
device: cpu
"""

# What a user would write to have something measured by a service.
ASSAY = '''\
"""A laboratory that is called over the network."""

import json
import os
import socket
import time
import uuid
from pathlib import Path

from flowscout import Result, oracle

PAUSE_S = {pause_s}


def ask(**question):
    port = int(Path(__file__).with_name("oracle.port").read_text())
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(json.dumps(question).encode() + b"\\n")
        line = connection.makefile().readline()
    if not line:
        raise ConnectionError("the laboratory has hung up")
    return json.loads(line)


def looked_up(keys):
    found = ask(do="look up", keys=keys)
    return {{key: None if value is None else Result(values={{"y": value}}) for key, value in found.items()}}


@oracle(cost_usd={cost_usd}, idempotent={idempotent}, lookup={lookup})
def measure(requests):
    visit, results = str(uuid.uuid4()), []
    time.sleep(PAUSE_S)  # claimed, and nobody has been called yet
    for request in requests:
        answer = ask(do="measure", key=request.key, object=request.object, visit=visit, pid=os.getpid())
        if "refused" in answer:
            raise ConnectionError("the laboratory refuses this key")
        results.append(Result(values={{"y": answer["value"]}}))
    time.sleep(PAUSE_S)  # answered, and nothing has been written yet
    return results
'''

# A surrogate that costs nothing: a round is to take as long as its calls.
BELIEF = '''\
"""To believe nothing of anything."""

import torch
from botorch.posteriors import GPyTorchPosterior
from gpytorch.distributions import MultivariateNormal


class Nothing:
    def fit(self, X, Y):
        pass

    def posterior(self, X):
        n = len(X)
        return GPyTorchPosterior(MultivariateNormal(torch.zeros(n, dtype=X.dtype), torch.eye(n, dtype=X.dtype)))

    def mean_sd(self, X):
        return torch.zeros(len(X), dtype=X.dtype), torch.ones(len(X), dtype=X.dtype)

    def sample(self, X, n_draws, *, generator):
        return torch.randn(n_draws, len(X), generator=generator, dtype=X.dtype)

    def state_dict(self):
        return {"nothing": torch.zeros(1, dtype=torch.float64)}

    def load_state_dict(self, state, X, Y):
        pass

    def diagnostics(self):
        return {}


def nothing(space):
    return Nothing()
'''

STOP, TELLING, TURN = "stop", "telling.txt", "runner.turn"
"""Files beside the campaign: it is there when all is to end; what the teller does; which runner is the last."""


@dataclass(frozen=True)
class Layout:
    """Where a trial lies, what it is called with, and how long its calls take."""

    folder: Path
    url: str
    kind: str
    seed: int = 0
    lose: float = 0.02
    pause_s: float = 0.03

    def write(self) -> None:
        """Write the campaign file and what it imports."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "told").mkdir(exist_ok=True)
        text = CAMPAIGN.format(seed=self.seed, length=LENGTH, batch=BATCH)
        (self.folder / "campaign.yaml").write_text(text, encoding="utf-8")
        text = ASSAY.format(
            pause_s=self.pause_s,
            cost_usd=PRICE_MINOR / 100,
            idempotent=self.kind == "idempotent",
            lookup="looked_up" if self.kind == "lookup" else None,
        )
        (self.folder / "assay.py").write_text(text, encoding="utf-8")
        (self.folder / "belief.py").write_text(BELIEF, encoding="utf-8")
        (self.folder / TELLING).touch()


def table_of(number: int, *, seed: int) -> list[tuple[str, float]]:
    """Return what the table of this number tells: objects that nobody has proposed, with values."""
    rng = random.Random(f"{seed} told {number}")
    return [("".join(rng.choices(LETTERS, k=LENGTH)), rng.randrange(4000) / 64) for _ in range(ROWS_TOLD)]
