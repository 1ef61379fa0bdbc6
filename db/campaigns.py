"""Campaigns: registering them, their versions, and the lease that says who may run a round."""

import logging
import secrets
import uuid as uuids
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from flowscout.db import owners
from flowscout.db.candidates import insert_for
from flowscout.db.database import Database
from flowscout.db.events import EventKind, read_events
from flowscout.db.events import add_event as add_event
from flowscout.db.locks import lock_campaign as lock_campaign
from flowscout.db.models import Balance, Campaign, ConfigVersion, Objective, utc_now
from flowscout.db.records import CampaignRecord, ConfigRecord, Lease, ObjectiveRecord, RunnerRecord
from flowscout.db.states import CampaignState, sources_of
from flowscout.db.timings import LEASE_TTL_S
from flowscout.errors import CampaignBusyError, LeaseLostError, NotFoundError

logger = logging.getLogger(__name__)

_LATEST_FIRST = (ConfigVersion.registered_at.desc(), ConfigVersion.number.desc())


class Campaigns:
    """What is stored of campaigns."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(
        self,
        name: str,
        config: ConfigRecord,
        *,
        objectives: Sequence[ObjectiveRecord],
        seed: int | None,
        limit_minor: int | None,
        actor: str,
    ) -> CampaignRecord:
        """Make the campaign if there is none of this name; store `config` as a version if it is new.

        The seed is drawn when none is given, and never changes afterwards.
        """
        with self._database.write() as session:
            drawn = secrets.randbits(62) if seed is None else seed
            new = {"uuid": str(uuids.uuid4()), "name": name, "seed": drawn}
            insert = insert_for(session)(Campaign).values(new).on_conflict_do_nothing()
            made = session.scalar(insert.returning(Campaign.id))
            row = session.scalars(
                select(Campaign).where(Campaign.name == name).with_for_update(key_share=True)
            ).one()
            if made is not None:
                session.add(Balance(campaign_id=row.id, limit_minor=limit_minor))
                add_event(session, row.id, "campaign_registered", actor=actor, detail={"name": name})
            _store_version(session, row.id, config, actor=actor)
            _store_objectives(session, row.id, objectives)
            _store_limit(session, row.id, limit_minor, actor=actor)
            return _campaign(row)

    def get(self, campaign: int | str) -> CampaignRecord:
        """Return a campaign by its id, uuid or name.

        Raises:
            NotFoundError: there is none; the message names those there are.
        """
        column = Campaign.id if isinstance(campaign, int) else Campaign.name
        with self._database.read() as session:
            row = session.scalar(select(Campaign).where(column == campaign))
            if row is None and isinstance(campaign, str):
                row = session.scalar(select(Campaign).where(Campaign.uuid == campaign))
            if row is None:
                names = ", ".join(session.scalars(select(Campaign.name).order_by(Campaign.name))) or "none"
                raise NotFoundError(
                    f"no campaign {campaign!r} in this history (it holds: {names}); "
                    "start it with `flowscout run`, or name another database with --db."
                )
            return _campaign(row)

    def all(self) -> list[CampaignRecord]:
        """Return the campaigns of this history, the oldest first."""
        with self._database.read() as session:
            return [_campaign(row) for row in session.scalars(select(Campaign).order_by(Campaign.id))]

    def only(self) -> str:
        """Return the name of the one campaign of this history.

        Raises:
            NotFoundError: there are several, or none; the message names them.
        """
        with self._database.read() as session:
            names = list(session.scalars(select(Campaign.name).order_by(Campaign.name)))
        if len(names) != 1:
            raise NotFoundError(
                f"this history holds {len(names)} campaigns ({', '.join(names) or 'none'}), expected one where no "
                "name is given; name one of them."
            )
        return names[0]

    def config(
        self, campaign_id: int, *, sha256: str | None = None, version_id: int | None = None
    ) -> ConfigRecord:
        """Return the configuration registered last, or the one with this hash or id.

        Raises:
            NotFoundError: no version with this hash was registered.
        """
        query = select(ConfigVersion).where(ConfigVersion.campaign_id == campaign_id)
        if sha256 is not None:
            query = query.where(ConfigVersion.sha256 == sha256)
        if version_id is not None:
            query = query.where(ConfigVersion.id == version_id)
        query = query.order_by(*_LATEST_FIRST)
        with self._database.read() as session:
            row = session.scalar(query.limit(1))
        if row is None:
            raise NotFoundError(
                f"campaign {campaign_id} has no configuration with sha256 {sha256!r}; "
                "register the campaign file again with `flowscout run` or `flowscout ask`."
            )
        return _config(row)

    def configs(self, campaign_id: int) -> list[ConfigRecord]:
        """Return every configuration of a campaign, the one registered last first."""
        query = select(ConfigVersion).where(ConfigVersion.campaign_id == campaign_id).order_by(*_LATEST_FIRST)
        with self._database.read() as session:
            return [_config(row) for row in session.scalars(query)]

    def objectives(self, campaign_id: int) -> list[ObjectiveRecord]:
        """Return what the campaign wants, in the order it was registered."""
        query = select(Objective).where(Objective.campaign_id == campaign_id).order_by(Objective.id)
        with self._database.read() as session:
            return [
                ObjectiveRecord(row.property, row.direction, row.unit, row.transform)
                for row in session.scalars(query)
            ]

    def set_state(
        self,
        campaign_id: int,
        state: CampaignState,
        *,
        actor: str,
        before: CampaignState | None = None,
        detail: dict[str, Any] | None = None,
    ) -> bool:
        """Move the campaign to `state`; return whether it was in another one that allows it.

        With `before`, whether it was in that one. The event says why in its `detail`.
        """
        sources = [one for one in sources_of(state) if before is None or one is before]
        with self._database.write() as session:
            changed = session.execute(
                update(Campaign).where(Campaign.id == campaign_id, Campaign.state.in_(sources)).values(state=state)
            )
            moved: bool = changed.rowcount == 1  # type: ignore[attr-defined]
            if moved:
                add_event(session, campaign_id, f"campaign_{state}", actor=actor, detail=detail)
            return moved

    def acquire_lease(self, campaign_id: int, *, owner: str, ttl_s: float = LEASE_TTL_S) -> Lease:
        """Take the right to run rounds, by the database's clock.

        A lease of a dead process of this host is taken over at once; any other one when it has expired.

        Raises:
            CampaignBusyError: another live process holds it.
        """
        with self._database.write() as session:
            row = session.scalars(
                select(Campaign).where(Campaign.id == campaign_id).with_for_update(key_share=True)
            ).one()
            now = session.scalars(select(utc_now())).one()
            held = row.lease_owner is not None and row.lease_until is not None and row.lease_until > now
            if held and row.lease_owner is not None and not owners.is_dead(row.lease_owner):
                raise CampaignBusyError(
                    f"campaign {row.name!r} is being run by {owners.describe(row.lease_owner)}; "
                    "wait for it to end, or stop it: a dead one is taken over at once."
                )
            if row.lease_owner is not None:
                detail = {"from": row.lease_owner, "to": owner}
                add_event(session, campaign_id, "lease_taken_over", actor=owner, detail=detail)
            lease = Lease(campaign_id, str(uuids.uuid4()), owner, ttl_s)
            row.lease_owner, row.lease_token = owner, lease.token
            row.lease_until = now + timedelta(seconds=ttl_s)
            return lease

    def renew_lease(self, lease: Lease) -> bool:
        """Put off the lease's end; return False if the database did not answer, so that nothing is known.

        Raises:
            LeaseLostError: another process has taken the campaign over.
        """
        try:
            with self._database.write() as session:
                hold_lease(session, lease)
        except SQLAlchemyError as error:
            logger.warning("the lease of campaign %s could not be renewed: %s", lease.campaign_id, error)
            return False
        return True

    def release_lease(self, lease: Lease) -> None:
        """Give the lease back, if it is still held."""
        with self._database.write() as session:
            session.execute(
                update(Campaign)
                .where(Campaign.id == lease.campaign_id, Campaign.lease_token == lease.token)
                .values(lease_owner=None, lease_token=None, lease_until=None)
            )

    def lease_holder(self, campaign_id: int) -> str | None:
        """Return who runs the campaign now, as a person would say it; None if nobody does."""
        runner = self.runner(campaign_id)
        return None if runner is None or not runner.living else owners.describe(runner.owner)

    def runner(self, campaign_id: int) -> RunnerRecord | None:
        """Return who holds the campaign's lease, or has not given it back; None if nobody."""
        with self._database.read() as session:
            row = session.scalars(select(Campaign).where(Campaign.id == campaign_id)).one()
            now = session.scalars(select(utc_now())).one()
        if row.lease_owner is None or row.lease_until is None:
            return None
        over_s = (now - row.lease_until).total_seconds()
        living = over_s < 0 and not owners.is_dead(row.lease_owner)
        return RunnerRecord(row.lease_owner, living=living, silent_s=max(0.0, over_s))


def hold_lease(session: Session, lease: Lease) -> None:
    """Put off the lease's end within this transaction: the fence of every write that a runner makes.

    Raises:
        LeaseLostError: another process has taken the campaign over; the transaction must not commit.
    """
    row = session.scalars(
        select(Campaign).where(Campaign.id == lease.campaign_id).with_for_update(key_share=True)
    ).one()
    if row.lease_token != lease.token:
        raise LeaseLostError(
            f"campaign {row.name!r} was taken over by another process while this one was away; "
            "nothing was written. The other one goes on; look with `flowscout status`."
        )
    now = session.scalars(select(utc_now())).one()
    row.lease_until = now + timedelta(seconds=lease.ttl_s)
    session.flush()


def _config(row: ConfigVersion) -> ConfigRecord:
    return ConfigRecord(
        id=row.id,
        number=row.number,
        sha256=row.sha256,
        yaml=row.yaml,
        folder=row.folder,
        package_version=row.package_version,
        git_commit=row.git_commit,
    )


def _store_version(session: Session, campaign_id: int, config: ConfigRecord, *, actor: str) -> None:
    known = select(ConfigVersion).where(ConfigVersion.campaign_id == campaign_id)
    row = session.scalar(known.where(ConfigVersion.sha256 == config.sha256))
    if row is not None:
        row.folder = config.folder  # where the file stands may change; what it says may not
        session.execute(update(ConfigVersion).where(ConfigVersion.id == row.id).values(registered_at=utc_now()))
        return
    last = session.scalar(select(func.max(ConfigVersion.number)).where(ConfigVersion.campaign_id == campaign_id))
    number = (last or 0) + 1
    session.add(
        ConfigVersion(
            campaign_id=campaign_id,
            number=number,
            sha256=config.sha256,
            yaml=config.yaml,
            folder=config.folder,
            package_version=config.package_version,
            git_commit=config.git_commit,
            actor=actor,
        )
    )
    detail = {"number": number, "sha256": config.sha256}
    add_event(session, campaign_id, "config_registered", actor=actor, detail=detail)


def _store_limit(session: Session, campaign_id: int, limit_minor: int | None, *, actor: str) -> None:
    """Let the campaign file's limit hold if it is another one than the file had before.

    Else a limit that a person has set since stays.
    """
    events = read_events(session, campaign_id, kinds=[EventKind.BUDGET_SET])
    said = [event.detail["limit_minor"] for event in events if event.detail["by"] == "file"]
    if said and said[-1] == limit_minor:
        return
    balance = session.scalars(select(Balance).where(Balance.campaign_id == campaign_id).with_for_update()).one()
    detail = {"limit_minor": limit_minor, "was_minor": balance.limit_minor, "by": "file", "reason": None}
    balance.limit_minor = limit_minor
    add_event(session, campaign_id, EventKind.BUDGET_SET, actor=actor, detail=detail)


def _store_objectives(session: Session, campaign_id: int, objectives: Sequence[ObjectiveRecord]) -> None:
    rows = session.scalars(select(Objective).where(Objective.campaign_id == campaign_id))
    known = {row.property: row for row in rows}
    for wanted in objectives:
        row = known.get(wanted.property)
        if row is None:
            row = Objective(campaign_id=campaign_id, property=wanted.property)
            session.add(row)
        row.direction, row.unit, row.transform = wanted.direction, wanted.unit, wanted.transform


def _campaign(row: Campaign) -> CampaignRecord:
    return CampaignRecord(row.id, row.uuid, row.name, row.seed, row.clock, row.state)
