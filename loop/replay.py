"""A past round computed once more from its cut-off, its version of the campaign file and its seeds.

Everything happens in memory: the history is read as it stood then, and nothing is written.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from flowscout.db import ArtefactRecord, Decision, FitRecord, ProposalRecord, RoundRecord, SamplerRecord
from flowscout.db.database import to_json
from flowscout.db.past import past_history, replaced_by_veto
from flowscout.errors import FlowscoutError, StateError
from flowscout.loop.artefacts import ArtefactsInMemory, ArtefactStore
from flowscout.loop.fitting import fit_surrogate, versions
from flowscout.loop.gflownet import one_thread
from flowscout.loop.pools import USER
from flowscout.loop.seeds import derive_seed
from flowscout.loop.turns import propose_batch, train_sampler
from flowscout.loop.workbench import Tools, Workbench, at_version
from flowscout.version import __version__

_NUMBERS = ("acquisition", "log_reward", "log_prob", "mean", "sd")


@dataclass(frozen=True)
class Difference:
    """Something that came out otherwise: what was stored and what came now, and how far apart numbers are."""

    what: str
    stored: str
    replayed: str
    distance: float | None = None


@dataclass(frozen=True)
class Replay:
    """What came of a replay. `versions` are those that differ; `compared` names what was looked at."""

    round: int
    differences: tuple[Difference, ...]
    versions: tuple[Difference, ...]
    compared: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether the round came out as it is stored."""
        return not self.differences


@one_thread()
def replay(bench: Workbench, number: int, *, tolerance: float = 0.0) -> Replay:
    """Fit, train and propose round `number` again, as far as it came, and compare it with what is stored.

    Numbers may be `tolerance` apart: 0 is right on the same machine with the same versions, other versions of
    torch or other processors add sums in another order.

    Raises:
        NotFoundError: there is no such round.
        StateError: nothing was fitted in it yet.
    """
    return _Replaying(bench, number, tolerance).run()


class _Replaying:
    """One replay as it goes on: the stages in order, each on what the one before it made."""

    def __init__(self, bench: Workbench, number: int, tolerance: float) -> None:
        rounds = bench.history.rounds
        self.record: RoundRecord = rounds.get(bench.campaign.id, number)
        fitted = rounds.fit(self.record.id)
        if fitted is None:
            raise StateError(f"round {number} has no fitted surrogate yet; run it first.")
        self.fitted: FitRecord = fitted
        self.sampler: SamplerRecord | None = rounds.sampler(self.record.id)
        self.proposals = rounds.proposals(self.record.id)
        self.real, self.tolerance = bench, tolerance
        self.found: list[Difference] = []
        self.compared: list[str] = []

    def run(self) -> Replay:
        self._compare("seed of the round", self.record.seed, self._seed())
        try:
            bench = self._then()
            fitted = self._fit(bench)
            run = None if self.sampler is None else self._train(bench, fitted, self.sampler)
            if run is not None and self.proposals:
                self._propose(bench, fitted, run)
        except FlowscoutError as error:
            self.found.append(Difference("cannot be computed again", "computed", str(error)))
        versions = tuple(self._versions())
        return Replay(self.record.number, tuple(self.found), versions, tuple(self.compared))

    def _seed(self) -> int:
        return derive_seed(self.real.campaign.seed, "round", self.record.number)

    def _then(self) -> Workbench:
        """Return the bench as it was: the version of the file, the history, the size of the batch."""
        bench = at_version(self.real, self.record.config_version_id)
        reward = {} if self.sampler is None else self.sampler.reward
        history = past_history(
            bench.history,
            self.record,
            upto_seq=self.fitted.data_upto_seq,
            pending=reward.get("pending", []),
            infeasible=reward.get("infeasible", []),
        )
        ranked = len({one.rank for one in self.proposals if one.rank is not None})
        config = bench.config
        if ranked:  # `ask` may have wanted another number than the file
            config = config.model_copy(update={"batch": config.batch.model_copy(update={"size": ranked})})
        tools = _ToolsInMemory(bench.config, bench.version, places=bench.tools.places, here=bench.tools.here)
        return replace(bench, history=history, config=config, tools=tools)

    def _fit(self, bench: Workbench) -> FitRecord:
        self.compared += ["data", "fit"]
        fitted, stored = fit_surrogate(bench, self.record), self.fitted
        self._compare("data: number of rows", stored.data_count, fitted.data_count)
        self._compare("data: hash of the rows", stored.data_sha256, fitted.data_sha256)
        for name in ("kind", "seed"):
            self._compare(f"fit: {name}", getattr(stored, name), getattr(fitted, name))
        self._compare("fit: params", _without_versions(stored.params), _without_versions(fitted.params))
        self._compare("fit: diagnostics", stored.diagnostics, fitted.diagnostics)
        self._compare_artefacts(bench, "fit", stored.artefact, fitted.artefact)
        return replace(fitted, id=stored.id)

    def _train(self, bench: Workbench, fitted: FitRecord, stored: SamplerRecord) -> SamplerRecord:
        self.compared.append("sampler")
        run = train_sampler(bench, self.record, fitted)
        for name in ("kind", "seed", "params", "reward", "diagnostics", "parent_id"):
            self._compare(f"sampler: {name}", getattr(stored, name), getattr(run, name))
        self._compare_artefacts(bench, "sampler", stored.artefact, run.artefact)
        # As it is read back from the history.
        return replace(run, id=stored.id, reward=_plain(run.reward), params=_plain(run.params))

    def _propose(self, bench: Workbench, fitted: FitRecord, run: SamplerRecord) -> None:
        self.compared += ["pool", "proposals"]
        stored = self._before_vetoes()
        own = sorted((one for one in stored if one.origin == USER and one.rank), key=lambda one: one.rank or 0)
        made = propose_batch(bench, self.record, fitted, run, include=[one.object for one in own])
        then, now = {one.key: one for one in stored}, {one.key: one for one in made}
        gone, new = sorted(then.keys() - now.keys()), sorted(now.keys() - then.keys())
        if gone or new:
            examples = [", ".join(keys[:3]) or "nothing" for keys in (gone, new)]
            self.found.append(
                Difference(
                    "pool",
                    f"{len(gone)} that do not come now: {examples[0]}",
                    f"{len(new)} that are not stored: {examples[1]}",
                )
            )
        both = sorted(then.keys() & now.keys())
        for name in ("origin", "decision", "rank"):
            self._compare_pairs(name, [(key, getattr(then[key], name), getattr(now[key], name)) for key in both])
        for name in _NUMBERS:
            self._compare_pairs(name, [(key, getattr(then[key], name), getattr(now[key], name)) for key in both])

    def _before_vetoes(self) -> list[ProposalRecord]:
        """Return the stored proposals as they were before anybody vetoed one and another took its place."""
        heirs = replaced_by_veto(self.real.history, self.record.id)
        found = []
        for one in self.proposals:
            if one.candidate_id in heirs:
                one = replace(one, decision=Decision.OUTRANKED, rank=None)
            elif one.decision is Decision.VETOED and one.rank is not None:
                one = replace(one, decision=Decision.SELECTED)
            found.append(one)
        return found

    def _compare(self, what: str, stored: Any, made: Any) -> None:
        self.found.extend(differences(what, _plain(stored), _plain(made), self.tolerance))

    def _compare_pairs(self, name: str, pairs: list[tuple[str, Any, Any]]) -> None:
        apart = [
            (key, stored, made)
            for key, stored, made in pairs
            if any(differences(name, _plain(stored), _plain(made), self.tolerance))
        ]
        if not apart:
            return
        key, stored, made = apart[0]
        more = "" if len(apart) == 1 else f", and {len(apart) - 1} more differ"
        gaps = [abs(a - b) for _, a, b in apart if isinstance(a, float) and isinstance(b, float)]
        self.found.append(
            Difference(
                f"proposals: {name}",
                f"{stored} of {key}",
                f"{made}{more}",
                max(gaps, default=None),
            )
        )

    def _compare_artefacts(
        self, bench: Workbench, what: str, stored: ArtefactRecord | None, made: ArtefactRecord | None
    ) -> None:
        """Compare two files by content, and the tensors in them where that differs."""
        if stored is None or made is None:
            self._compare(f"{what}: artefact", stored and stored.sha256, made and made.sha256)
            return
        try:
            then = self.real.artefacts.get(stored)
        except FlowscoutError as error:
            self.found.append(Difference(f"{what}: artefact", stored.sha256[:12], str(error)))
            return
        if stored.sha256 != made.sha256:
            gap = _distance(then, bench.artefacts.get(made))
            if gap is None or gap > self.tolerance:
                self.found.append(Difference(f"{what}: artefact", stored.sha256[:12], made.sha256[:12], gap))

    def _versions(self) -> Iterator[Difference]:
        """Yield the versions that are others than those the round was made with."""
        bench = self.real
        then = bench.history.campaigns.config(bench.campaign.id, version_id=self.record.config_version_id)
        known = {"flowscout": then.package_version} | dict(self.fitted.params.get("versions", {}))
        now = versions() | {"flowscout": __version__}
        for name, version in sorted(known.items()):
            if version != now.get(name):
                yield Difference(f"version of {name}", str(version), str(now.get(name)))


def differences(what: str, stored: Any, made: Any, tolerance: float) -> Iterator[Difference]:
    """Yield where two contents of JSON differ, each by its place."""
    if isinstance(stored, Mapping) and isinstance(made, Mapping):
        for name in sorted(name for name in {*stored, *made} if not name.endswith("seconds")):  # a clock's
            yield from differences(f"{what}.{name}", stored.get(name), made.get(name), tolerance)
    elif isinstance(stored, list) and isinstance(made, list) and len(stored) == len(made):
        for place, (one, other) in enumerate(zip(stored, made, strict=True)):
            yield from differences(f"{what}[{place}]", one, other, tolerance)
    elif _is_number(stored) and _is_number(made):
        gap = abs(stored - made)
        if stored != made and not gap <= tolerance:
            yield Difference(what, repr(stored), repr(made), gap)
    elif stored != made:
        yield Difference(what, repr(stored), repr(made))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _plain(content: Any) -> Any:
    """Return content as it is read back from the history."""
    if isinstance(content, float):  # columns of numbers keep infinities, JSON does not
        return content
    return json.loads(to_json(dict(content) if isinstance(content, Mapping) else content))


def _without_versions(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name != "versions"}


def _distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float | None:
    """Return how far apart the furthest two numbers are; None where the tensors are not alike."""
    if one.keys() != other.keys() or any(one[name].shape != other[name].shape for name in one):
        return None
    gaps = [(one[name].double() - other[name].double()).abs().max().item() for name in one if one[name].numel()]
    return max(gaps, default=0.0)


class _ToolsInMemory(Tools):
    """Tools whose artefacts are not written."""

    @property
    def artefacts(self) -> ArtefactStore:
        if "kept" not in self.__dict__:
            self.__dict__["kept"] = ArtefactsInMemory(ArtefactStore(*self.places))
        kept: ArtefactStore = self.__dict__["kept"]
        return kept
