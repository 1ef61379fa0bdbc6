"""Facts, money and the log are append-only by the database itself; hooks know how far they have been told.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

from flowscout.db.models.base import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

APPEND_ONLY = ("measurement", "ledger", "event")

INDEXES = (("ix_event_campaign_id_kind", "event", ["campaign_id", "kind"]),)

FUNCTION = """
CREATE FUNCTION flowscout_append_only() RETURNS trigger AS $$
BEGIN
    RAISE EXCEPTION 'table % is append-only: % is refused', TG_TABLE_NAME, TG_OP;
END
$$ LANGUAGE plpgsql
"""


def upgrade() -> None:
    """Make the table of deliveries, the index that the log lacked, and the triggers."""
    op.create_table(
        "delivery",
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("hook", sa.String(length=64), nullable=False),
        sa.Column("event_id", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("not_before", UtcDateTime(), nullable=True),
        sa.Column("lease_token", sa.String(length=36), nullable=True),
        sa.Column("lease_until", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_delivery_campaign_id")),
        sa.PrimaryKeyConstraint("campaign_id", "hook", name=op.f("pk_delivery")),
    )
    for name, table, columns in INDEXES:
        op.create_index(name, table, columns, unique=False)
    postgresql = op.get_bind().dialect.name == "postgresql"
    if postgresql:
        op.execute(FUNCTION)
    for table in APPEND_ONLY:
        for change, each in _changes(postgresql=postgresql):
            refusal = (
                "EXECUTE FUNCTION flowscout_append_only()"
                if postgresql
                else f"BEGIN SELECT RAISE(ABORT, 'table {table} is append-only: {change.upper()} is refused'); END"
            )
            op.execute(
                f"CREATE TRIGGER {table}_no_{change} BEFORE {change.upper()} ON {table} FOR EACH {each} {refusal}"
            )


def downgrade() -> None:
    """Drop the triggers, the index and the table."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    for table in APPEND_ONLY:
        for change, _ in _changes(postgresql=postgresql):
            op.execute(f"DROP TRIGGER {table}_no_{change}{f' ON {table}' if postgresql else ''}")
    if postgresql:
        op.execute("DROP FUNCTION flowscout_append_only()")
    for name, table, _ in INDEXES:
        op.drop_index(name, table_name=table)
    op.drop_table("delivery")


def _changes(*, postgresql: bool) -> list[tuple[str, str]]:
    """Return what is refused, and whether for each row or statement. SQLite has no TRUNCATE."""
    rows = [("update", "ROW"), ("delete", "ROW")]
    return [*rows, ("truncate", "STATEMENT")] if postgresql else rows
