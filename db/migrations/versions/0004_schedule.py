"""Campaigns have a schedule: when rounds start by themselves, and the gate that must be open for it.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

from flowscout.db.models.base import UtcDateTime, utc_now

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table of schedules."""
    op.create_table(
        "schedule",
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("cron", sa.String(length=200), nullable=True),
        sa.Column("interval_s", sa.Float(), nullable=True),
        sa.Column("timezone", sa.String(length=100), nullable=False),
        sa.Column("gate", sa.Text(), nullable=True),
        sa.Column("approve", sa.Boolean(), nullable=False),
        sa.Column("server_url", sa.Text(), nullable=True),
        sa.Column("deployment_id", sa.String(length=36), nullable=True),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.CheckConstraint("(cron IS NULL) <> (interval_s IS NULL)", name=op.f("ck_schedule_cron_or_interval")),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_schedule_campaign_id")),
        sa.PrimaryKeyConstraint("campaign_id", name=op.f("pk_schedule")),
    )


def downgrade() -> None:
    """Drop the table of schedules."""
    op.drop_table("schedule")
