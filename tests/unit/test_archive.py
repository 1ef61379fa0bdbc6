"""The whole history as a folder: what comes back is what was there, on either database."""

import hashlib
import json
import math
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select, text

from flowscout.db import (
    ArtefactRecord,
    FailureClass,
    FitRecord,
    History,
    Outcome,
    RoundState,
    SamplerRecord,
    ScheduleRecord,
)
from flowscout.db.archive import OF_NO_CAMPAIGN, of_campaign
from flowscout.db.checks import check_history
from flowscout.db.models import Base
from flowscout.errors import ConfigError, SchemaError, WorkError
from flowscout.testing.histories import ORACLE, PROPERTY, Scene, begin, failed, measured, proposal, result

WAYS = (("sqlite", "sqlite"), ("sqlite", "postgresql"), ("postgresql", "sqlite"))


@pytest.fixture
def urls(sqlite_url: str, postgresql_url: str) -> dict[str, str]:
    """Return an empty history of each kind."""
    return {"sqlite": sqlite_url, "postgresql": postgresql_url}


def fill(history: History, artefacts: Path, *, name: str = "campaign") -> Scene:
    """Make a history that has something in every table, with what is hard to write: nothing, infinity, unicode."""
    scene = begin(history, limit_minor=10_000, name=name)
    scene.tell(
        measured("acgt", 0.1 + 0.2, sem=0.1, n=2, unit="µM", as_run={"t": 30.5, "why": "=1+1"}),
        measured("=cmd|'x'", -1e-300, row_id='\ttab, "quote"\nline'),
    )
    content = f"weights of {name}".encode()
    digest = hashlib.sha256(content).hexdigest()
    artefacts.mkdir(parents=True, exist_ok=True)
    (artefacts / f"{digest}.safetensors").write_bytes(content)
    record = scene.start()
    history.rounds.advance(scene.lease, record, RoundState.FITTING)
    data = history.measurements.training_set(scene.campaign.id, PROPERTY)
    artefact = ArtefactRecord(digest, "gp", len(content))
    fit = FitRecord(
        "gp", 7, data.upto_seq, len(data.rows), data.sha256, params={"a": [1, None]}, artefact=artefact
    )
    stored = history.rounds.record_fit(scene.lease, record, fit)
    run = SamplerRecord("gflownet", 2**61, stored.id or 0, reward={"pending": []})
    trained = history.rounds.record_sampler(scene.lease, record, run)
    batch = [proposal(obj, rank, acquisition=1 / 3) for rank, obj in enumerate(["aa", "cc", "gg", "tt"], start=1)]
    batch.append(proposal("at", acquisition=-math.inf))
    batch.append(proposal("ta", acquisition=None))
    history.rounds.record_proposals(scene.lease, record, batch, sampler_run_id=trained.id, oracle=ORACLE)
    history.vetoes.add(scene.campaign.id, {"TT": "tt"}, reason="toxic", actor="bench")
    history.rounds.advance(scene.lease, record, RoundState.AWAITING_APPROVAL)
    history.approvals.add(scene.lease, record, actor="bench", people=False)
    one, two, three, *_ = scene.claim(record)
    scene.settle(result(one, 4.0), failed(two, FailureClass.PERMANENT), Outcome(three, unknown=True))
    history.deliveries.subscribe(scene.campaign.id, ["a" * 64])
    history.schedules.set(
        ScheduleRecord(scene.campaign.id, cron="0 8 * * MON", gate="results >= 24", approve=True), actor="bench"
    )
    wrong = measured("=cmd|'x'", 5e-300, row_id='\ttab, "quote"\nline')
    history.measurements.add(scene.campaign.id, [wrong], actor="bench", correct="the sign was typed wrongly")
    return scene


def content(history: History, name: str) -> dict[str, list[dict[str, object]]]:
    """Return every row of every table of a campaign, its lease apart."""
    with history.database.read() as session:
        campaign_id = history.campaigns.get(name).id
        found = {}
        for table in Base.metadata.sorted_tables:
            if table.name in OF_NO_CAMPAIGN:
                continue
            query = select(table).where(of_campaign(table, campaign_id)).order_by(*table.primary_key.columns)
            rows = [dict(row) for row in session.execute(query).mappings()]
            found[table.name] = [{k: v for k, v in row.items() if not k.startswith("lease_")} for row in rows]
            found[table.name] += [{"nulls": session.execute(_nulls(table, campaign_id)).all()}]
    return found


def _nulls(table, campaign_id):
    """Return the query of which JSON cells are NULL: the database's own, not the null within JSON."""
    documents = [
        text(f"{table.name}.{c.name} IS NULL") for c in table.columns if c.type.__class__.__name__ == "JSON"
    ]
    columns = documents or [text("0")]
    return (
        select(*columns)
        .select_from(table)
        .where(of_campaign(table, campaign_id))
        .order_by(*table.primary_key.columns)
    )


def uncommon(content: dict[str, list[dict[str, object]]]) -> list[str]:
    return [name for name, rows in content.items() if len(rows) < 2]


@pytest.mark.parametrize(("source", "target"), WAYS)
def test_what_is_read_back_is_what_was_written_row_by_row(
    urls: dict[str, str], source: str, target: str, tmp_path: Path
) -> None:
    with History(urls[source]) as history:
        fill(history, tmp_path / "artefacts")
        before = content(history, "campaign")
        assert uncommon(before) == []  # every table has a row
        done = history.archive.write(1, tmp_path / "out", artefacts=tmp_path / "artefacts")
        assert (done.artefacts, done.rows["proposal"]) == (1, 6)
    with History(urls[target] if target != source else f"sqlite:///{tmp_path}/new.db") as history:
        assert history.archive.read(tmp_path / "out", artefacts=tmp_path / "back") == done
        assert content(history, "campaign") == before
        assert [p.name for p in (tmp_path / "back").iterdir()] == [
            p.name for p in (tmp_path / "artefacts").iterdir()
        ]
        # And it goes on: ids that are given out now are new ones.
        lease = history.campaigns.acquire_lease(1, owner="somebody")
        assert history.rounds.start(lease, 2, seed=2, config_version_id=1).id == 2
        scene = Scene(history, history.campaigns.get("campaign"), history.campaigns.config(1), lease)
        assert scene.tell(measured("gggg")).added == 1
        assert history.campaigns.get("campaign").clock == 5


def test_parquet_holds_the_same(sqlite_url: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="an extra that is not part of the tests' environment")
    with History(sqlite_url) as history:
        fill(history, tmp_path / "artefacts")
        before = content(history, "campaign")
        history.archive.write(1, tmp_path / "out", artefacts=tmp_path / "artefacts", form="parquet")
    with History(f"sqlite:///{tmp_path}/new.db") as history:
        history.archive.read(tmp_path / "out", artefacts=tmp_path / "back")
        assert content(history, "campaign") == before


def test_beside_another_campaign_ids_move_on_and_everything_still_names_the_same(
    sqlite_url: str, postgresql_url: str, tmp_path: Path
) -> None:
    with History(sqlite_url) as history:
        fill(history, tmp_path / "artefacts")
        history.archive.write(1, tmp_path / "out", artefacts=tmp_path / "artefacts")
        own = {"candidate_id", "measurement_id", "supersedes_id", "sampler_run_id", "model_fit_id"}
        before = [{k: v for k, v in row.items() if k not in own} for row in history.queries.history("campaign")]
        vetoed = history.vetoes.keys(1)
    with History(postgresql_url) as history:
        fill(history, tmp_path / "others", name="other")
        others = content(history, "other")
        history.archive.read(tmp_path / "out", artefacts=tmp_path / "back")
        assert content(history, "other") == others
        rows = history.queries.history("campaign")
        assert [{k: v for k, v in row.items() if k not in own} for row in rows] == before
        assert history.vetoes.keys(history.campaigns.get("campaign").id) == vetoed == {"TT"}
        details = [row["detail"] for row in content(history, "campaign")["event"][:-1]]
        attempts = {row["id"] for row in content(history, "campaign")["attempt"][:-1]}
        candidates = {row["id"] for row in content(history, "campaign")["candidate"][:-1]}
        assert {one["candidate_id"] for one in details if "replaced_by" in one} < candidates
        assert {one["replaced_by"] for one in details if "replaced_by" in one} < candidates
        assert {one["attempt_id"] for one in details if "attempt_id" in one} <= attempts
        stored = {row["id"]: row for row in content(history, "campaign")["measurement"][:-1]}
        [correction] = [one for one in details if "supersedes_id" in one]
        assert stored[correction["measurement_id"]]["supersedes_id"] == correction["supersedes_id"] in stored
        [delivery, _] = content(history, "campaign")["delivery"]
        events = [row["id"] for row in content(history, "campaign")["event"][:-1]]
        assert delivery["event_id"] in events
        assert (
            check_history(history.database, history.campaigns.get("campaign").id, artefacts=tmp_path / "back")
            == []
        )


def test_a_copy_knows_its_schedule_and_what_was_approved_but_nobody_starts_it(
    sqlite_url: str, tmp_path: Path
) -> None:
    with History(sqlite_url) as history:
        fill(history, tmp_path / "artefacts")
        old = history.schedules.get(1)
        started = replace(old, server_url="http://127.0.0.1:4200/api", deployment_id="7d8b1f9e")
        history.schedules.set(started, actor="bench")
        history.archive.write(1, tmp_path / "out", artefacts=tmp_path / "artefacts")
    with History(f"sqlite:///{tmp_path}/new.db") as history:
        fill(history, tmp_path / "others", name="other")
        history.archive.read(tmp_path / "out", artefacts=tmp_path / "back")
        number = history.campaigns.get("campaign").id
        copied = history.schedules.get(number)
        assert copied == replace(old, campaign_id=number, created_at=copied.created_at)
        record = history.rounds.get(number, 1)
        assert history.approvals.get(record.id).actor == "bench"
        [approved] = history.events.read(number, kinds={"batch_approved"})
        batch = [one.candidate_id for one in history.rounds.proposals(record.id) if one.rank is not None]
        assert set(approved.detail["candidate_ids"]) <= set(batch)
        assert len(approved.detail["candidate_ids"]) == 4


def test_a_campaign_that_is_there_already_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    with History(sqlite_url) as history:
        fill(history, tmp_path / "artefacts")
        history.archive.write(1, tmp_path / "out", artefacts=tmp_path / "artefacts")
        before = content(history, "campaign")
        with pytest.raises(ConfigError, match="has campaign 'campaign' already"):
            history.archive.read(tmp_path / "out", artefacts=tmp_path / "back")
        assert content(history, "campaign") == before


def test_a_damaged_folder_is_refused_and_nothing_is_written(sqlite_url: str, tmp_path: Path) -> None:
    with History(sqlite_url) as history:
        fill(history, tmp_path / "artefacts")
        history.archive.write(1, tmp_path / "out", artefacts=tmp_path / "artefacts")
    file = tmp_path / "out" / "measurement.jsonl"
    file.write_text(file.read_text().replace("4.0", "5.0"))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    with History(f"sqlite:///{tmp_path}/new.db") as history:
        with pytest.raises(ConfigError, match=r"measurement\.jsonl' is damaged"):
            history.archive.read(tmp_path / "out", artefacts=tmp_path / "back")
        (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest | {"format": 2}))
        with pytest.raises(SchemaError, match="format 2"):
            history.archive.read(tmp_path / "out", artefacts=tmp_path / "back")
        with pytest.raises(ConfigError, match="holds no whole history"):
            history.archive.read(tmp_path, artefacts=tmp_path / "back")
        with history.database.read() as session:
            assert session.execute(text("SELECT count(*) FROM campaign")).scalar() == 0


def test_nothing_half_written_is_left(sqlite_url: str, tmp_path: Path) -> None:
    with History(sqlite_url) as history:
        fill(history, tmp_path / "artefacts")
        [file] = (tmp_path / "artefacts").iterdir()
        file.write_bytes(b"something else")
        before = sorted(p.name for p in tmp_path.iterdir())
        with pytest.raises(WorkError, match="missing or damaged"):
            history.archive.write(1, tmp_path / "out", artefacts=tmp_path / "artefacts")
        assert sorted(p.name for p in tmp_path.iterdir()) == before
        with pytest.raises(ConfigError, match="is there already"):
            history.archive.write(1, tmp_path / "artefacts", artefacts=tmp_path / "artefacts")


def test_an_import_and_a_writer_do_not_wait_for_each_other_in_a_ring(urls, tmp_path):
    with History(urls["sqlite"]) as source:
        fill(source, tmp_path / "from")
        source.archive.write(source.campaigns.get("campaign").id, tmp_path / "folder", artefacts=tmp_path / "from")
    with History(urls["postgresql"]) as target:
        other = begin(target, name="other")
        other.claim(other.propose(["a"]))
        came = []
        reading = threading.Thread(
            target=lambda: came.append(target.archive.read(tmp_path / "folder", artefacts=tmp_path / "to"))
        )
        with target.database.write() as session:  # as in settling: an attempt first, the balance later
            session.execute(text("UPDATE attempt SET message = 'settled'"))
            reading.start()
            time.sleep(0.5)  # the import finds the table of attempts taken, and the other tables free
            session.execute(text("UPDATE balance SET spent_minor = 0"))
        reading.join()
        assert [one.campaign for one in came] == ["campaign"]
        assert target.campaigns.get("campaign").clock == 4
