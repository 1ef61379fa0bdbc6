"""Indexes for what people ask of a million measurements; events name a candidate; the view has the conditions."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

INDEXES = (
    ("measurement", "campaign_id", "created_at"),
    ("ledger", "evaluation_id"),
    ("ledger", "attempt_id"),
    ("event", "candidate_id"),
)

HISTORY = """
CREATE VIEW history AS
SELECT
    campaign.name AS campaign,
    measurement.seq AS seq,
    measurement.created_at AS measured_at,
    round.number AS round,
    candidate.id AS candidate_id,
    candidate.object AS object,
    candidate.key AS candidate_key,
    measurement.property AS property,
    measurement.value AS value,
    measurement.qualifier AS qualifier,
    measurement.sem AS sem,
    measurement.n AS n,
    measurement.unit AS unit,
    measurement.as_run AS as_run,
    measurement.source AS source,
    measurement.row_id AS row_id,
    measurement.actor AS actor,
    measurement.id AS measurement_id,
    measurement.supersedes_id AS supersedes_id,
    EXISTS (SELECT 1 FROM measurement AS later WHERE later.supersedes_id = measurement.id) AS superseded,
    oracle.name AS oracle,
    oracle.version AS oracle_version,
    oracle.fidelity AS fidelity,
    evaluation.replicate AS replicate,
    evaluation.idempotency_key AS idempotency_key,
    attempt.number AS attempt,
    attempt.cost_minor AS cost_minor,
    proposal.rank AS rank,
    proposal.origin AS origin,
    proposal.acquisition AS acquisition,
    proposal.log_reward AS log_reward,
    proposal.log_prob AS log_prob,
    proposal.mean AS predicted_mean,
    proposal.sd AS predicted_sd,
    sampler_run.kind AS sampler,
    sampler_run.id AS sampler_run_id,
    model_fit.kind AS surrogate,
    model_fit.id AS model_fit_id,
    model_fit.data_upto_seq AS data_upto_seq,
    config_version.sha256 AS config_sha256,
    config_version.package_version AS package_version,
    config_version.git_commit AS git_commit,
    round.prefect_run_id AS prefect_run_id
FROM measurement
JOIN campaign ON campaign.id = measurement.campaign_id
JOIN candidate ON candidate.id = measurement.candidate_id
LEFT JOIN attempt ON attempt.id = measurement.attempt_id
LEFT JOIN evaluation ON evaluation.id = measurement.evaluation_id
LEFT JOIN oracle ON oracle.id = evaluation.oracle_id
LEFT JOIN round ON round.id = evaluation.round_id
LEFT JOIN proposal ON proposal.round_id = round.id AND proposal.candidate_id = candidate.id
LEFT JOIN sampler_run ON sampler_run.id = proposal.sampler_run_id
LEFT JOIN model_fit ON model_fit.id = sampler_run.model_fit_id
LEFT JOIN config_version ON config_version.id = round.config_version_id
"""

HISTORY_0001 = """
CREATE VIEW history AS
SELECT
    campaign.name AS campaign,
    measurement.seq AS seq,
    measurement.created_at AS measured_at,
    round.number AS round,
    candidate.id AS candidate_id,
    candidate.object AS object,
    candidate.key AS candidate_key,
    measurement.property AS property,
    measurement.value AS value,
    measurement.qualifier AS qualifier,
    measurement.sem AS sem,
    measurement.n AS n,
    measurement.unit AS unit,
    measurement.source AS source,
    measurement.row_id AS row_id,
    measurement.actor AS actor,
    measurement.supersedes_id AS supersedes_id,
    EXISTS (SELECT 1 FROM measurement AS later WHERE later.supersedes_id = measurement.id) AS superseded,
    oracle.name AS oracle,
    oracle.version AS oracle_version,
    oracle.fidelity AS fidelity,
    evaluation.replicate AS replicate,
    evaluation.idempotency_key AS idempotency_key,
    attempt.number AS attempt,
    attempt.cost_minor AS cost_minor,
    proposal.rank AS rank,
    proposal.origin AS origin,
    proposal.acquisition AS acquisition,
    proposal.log_reward AS log_reward,
    proposal.log_prob AS log_prob,
    proposal.mean AS predicted_mean,
    proposal.sd AS predicted_sd,
    sampler_run.kind AS sampler,
    sampler_run.id AS sampler_run_id,
    model_fit.kind AS surrogate,
    model_fit.id AS model_fit_id,
    model_fit.data_upto_seq AS data_upto_seq,
    config_version.sha256 AS config_sha256,
    config_version.package_version AS package_version,
    config_version.git_commit AS git_commit,
    round.prefect_run_id AS prefect_run_id
FROM measurement
JOIN campaign ON campaign.id = measurement.campaign_id
JOIN candidate ON candidate.id = measurement.candidate_id
LEFT JOIN attempt ON attempt.id = measurement.attempt_id
LEFT JOIN evaluation ON evaluation.id = measurement.evaluation_id
LEFT JOIN oracle ON oracle.id = evaluation.oracle_id
LEFT JOIN round ON round.id = evaluation.round_id
LEFT JOIN proposal ON proposal.round_id = round.id AND proposal.candidate_id = candidate.id
LEFT JOIN sampler_run ON sampler_run.id = proposal.sampler_run_id
LEFT JOIN model_fit ON model_fit.id = sampler_run.model_fit_id
LEFT JOIN config_version ON config_version.id = round.config_version_id
"""


def upgrade() -> None:
    """Make the column, the indexes, and the view anew."""
    with op.batch_alter_table("event") as batch:
        batch.add_column(sa.Column("candidate_id", sa.Integer(), nullable=True))
        batch.create_foreign_key(op.f("fk_event_candidate_id"), "candidate", ["candidate_id"], ["id"])
    for table, *columns in INDEXES:
        op.create_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table, columns, unique=False)
    op.execute("DROP VIEW history")
    op.execute(HISTORY)


def downgrade() -> None:
    """Make the view as it was, and drop the rest."""
    op.execute("DROP VIEW history")
    op.execute(HISTORY_0001)
    for table, *columns in INDEXES:
        op.drop_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table_name=table)
    with op.batch_alter_table("event") as batch:
        batch.drop_constraint(op.f("fk_event_candidate_id"), type_="foreignkey")
        batch.drop_column("candidate_id")
