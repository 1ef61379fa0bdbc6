"""The campaign of `crash`: its file, what a user would write for it, and what is told of other objects."""

import json
import random
import secrets
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crash_oracle import PRICE_MINOR, Manners

WORKERS = 4
LENGTH = 16
LEASE_S = 3.0
ROWS_TOLD = 3
LETTERS = "ACGT"

ORACLES = ("callable", "process", "http")
"""What is called: a function of the user's, a program, a service."""

BATCH = {"callable": 12, "process": 24, "http": 24}
"""How many are measured in a round: so many that all workers have some in hand."""

CALLS = {"batch": 2, "concurrency": 2}
"""How much a program or a service is asked at once, and how often at the same time."""

TIMEOUT_S = {"callable": None, "process": 6.0, "http": 4.0}
LATE_S = 1.5
"""How long after its time-out an answer comes that comes late."""

CAMPAIGN = """\
campaign: crash
seed: {seed}
space: {{type: sequence, alphabet: dna, length: {length}}}
objectives: [{{name: y, direction: maximize}}]
oracle: {oracle}
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
        answer = ask(do="measure", key=request.key, object=request.object, visit=visit, callers=[os.getpid()])
        if "value" not in answer:
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

TOKEN_ENV = "FLOWSCOUT_CRASH_TOKEN"
"""The environment variable with the token that a service calls back with."""

STOP, TELLING, TURN = "stop", "telling.txt", "runner.turn"
"""Files beside the campaign: it is there when all is to end; what the teller does; which runner is the last."""


@dataclass(frozen=True)
class Layout:
    """Where a trial lies, who is called, of what kind and manners it is, and how long its calls take."""

    folder: Path
    url: str
    kind: str
    seed: int = 0
    manners: Manners = field(default_factory=Manners)
    pause_s: float = 0.03
    oracle: str = "callable"
    answers: str = "at_once"

    @property
    def batch(self) -> int:
        """How many are measured in a round."""
        return BATCH[self.oracle]

    @property
    def late_s(self) -> float:
        """How long after it has acted the oracle answers where that is to be too late."""
        return (TIMEOUT_S[self.oracle] or 0.0) + LATE_S

    @property
    def at_once(self) -> int:
        """How many evaluations may be in the hands of one process: no kill may make more of them unknown."""
        return self.batch if self.oracle == "callable" else CALLS["batch"] * CALLS["concurrency"]

    @property
    def calls_back(self) -> bool:
        """Whether answers are posted to an endpoint of ours."""
        return self.oracle == "http" and self.answers == "call_back"

    @property
    def endpoint_port(self) -> int:
        """The port of the endpoint that answers are posted to; the first to ask chooses it."""
        path = self.folder / "endpoint.port"
        if not path.exists():
            with socket.create_server(("127.0.0.1", 0)) as server:
                path.write_text(str(server.getsockname()[1]), encoding="utf-8")
        return int(path.read_text(encoding="utf-8"))

    @property
    def token(self) -> str:
        """The token that answers are posted with; the first to ask makes it."""
        path = self.folder / "token.txt"
        if not path.exists():
            path.write_text(secrets.token_urlsafe(32), encoding="utf-8")
        return path.read_text(encoding="utf-8")

    def write(self) -> None:
        """Write the campaign file and what it imports; the oracle says already at which port it is."""
        (self.folder / "told").mkdir(exist_ok=True)
        text = CAMPAIGN.format(seed=self.seed, length=LENGTH, batch=self.batch, oracle=self._oracle_line())
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

    def _oracle_line(self) -> str:
        """Return what the campaign file says of its oracle; JSON is YAML."""
        said: dict[str, Any]
        if self.oracle == "callable":
            return "assay:measure"
        if self.oracle == "process":
            program = Path(__file__).with_name("crash_program.py")
            said = {"command": [sys.executable, str(program), str(self.folder)]}
        else:
            port = (self.folder / "oracle.port").read_text(encoding="utf-8")
            said = {"url": f"http://127.0.0.1:{port}/measure", "answers": self.answers}
            if self.calls_back:
                said["token_env"] = TOKEN_ENV
            if self.kind == "lookup":
                said["lookup_url"] = f"http://127.0.0.1:{port}/look-up"
        said |= {"timeout_s": TIMEOUT_S[self.oracle], "cost_usd": PRICE_MINOR / 100, "name": "measure"}
        return json.dumps({"type": self.oracle} | said | CALLS | {"idempotent": self.kind == "idempotent"})


def table_of(number: int, *, seed: int) -> list[tuple[str, float]]:
    """Return what the table of this number tells: objects that nobody has proposed, with values."""
    rng = random.Random(f"{seed} told {number}")
    return [("".join(rng.choices(LETTERS, k=LENGTH)), rng.randrange(4000) / 64) for _ in range(ROWS_TOLD)]
