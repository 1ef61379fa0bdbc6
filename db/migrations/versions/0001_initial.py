"""The whole schema: campaigns, rounds, proposals, experiments, money, events, and the view `history`."""

import sqlalchemy as sa
from alembic import op

from flowscout.db.models.base import UtcDateTime, utc_now

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

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


def _states(name: str, *values: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=24)


def upgrade() -> None:
    """Make every table, then the view."""
    op.create_table(
        "campaign",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("clock", sa.BigInteger(), nullable=False),
        sa.Column("state", _states("state", "active", "paused", "finished"), nullable=False),
        sa.Column("lease_owner", sa.String(length=300), nullable=True),
        sa.Column("lease_token", sa.String(length=36), nullable=True),
        sa.Column("lease_until", UtcDateTime(), nullable=True),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_campaign")),
        sa.UniqueConstraint("name", name=op.f("uq_campaign_name")),
        sa.UniqueConstraint("uuid", name=op.f("uq_campaign_uuid")),
    )
    op.create_table(
        "worker",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(length=300), nullable=False),
        sa.Column("queue", sa.String(length=50), nullable=False),
        sa.Column("device", sa.String(length=100), nullable=True),
        sa.Column("started_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.Column("heartbeat_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_worker")),
        sa.UniqueConstraint("owner", name=op.f("uq_worker_owner")),
    )
    op.create_table(
        "artefact",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=50), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_artefact_campaign_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_artefact")),
        sa.UniqueConstraint("campaign_id", "sha256", name=op.f("uq_artefact_campaign_id_sha256")),
    )
    op.create_table(
        "balance",
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("limit_minor", sa.BigInteger(), nullable=True),
        sa.Column("reserved_minor", sa.BigInteger(), nullable=False),
        sa.Column("spent_minor", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_balance_campaign_id")),
        sa.PrimaryKeyConstraint("campaign_id", name=op.f("pk_balance")),
    )
    op.create_table(
        "candidate",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_candidate_campaign_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_candidate")),
        sa.UniqueConstraint("campaign_id", "key", name=op.f("uq_candidate_campaign_id_key")),
    )
    op.create_table(
        "config_version",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("yaml", sa.Text(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("package_version", sa.String(length=50), nullable=False),
        sa.Column("git_commit", sa.String(length=40), nullable=True),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.Column("registered_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_config_version_campaign_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_config_version")),
        sa.UniqueConstraint("campaign_id", "number", name=op.f("uq_config_version_campaign_id_number")),
        sa.UniqueConstraint("campaign_id", "sha256", name=op.f("uq_config_version_campaign_id_sha256")),
    )
    op.create_table(
        "objective",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("property", sa.String(length=200), nullable=False),
        sa.Column("direction", sa.String(length=10), nullable=False),
        sa.Column("unit", sa.String(length=50), nullable=True),
        sa.Column("transform", sa.String(length=50), nullable=True),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_objective_campaign_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_objective")),
        sa.UniqueConstraint("campaign_id", "property", name=op.f("uq_objective_campaign_id_property")),
    )
    op.create_table(
        "oracle",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("version", sa.String(length=50), nullable=False),
        sa.Column("fidelity", sa.String(length=50), nullable=False),
        sa.Column("unit_cost_minor", sa.BigInteger(), nullable=False),
        sa.Column("idempotent", sa.Boolean(), nullable=False),
        sa.Column("lookup", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_oracle_campaign_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_oracle")),
        sa.UniqueConstraint(
            "campaign_id",
            "name",
            "version",
            "fidelity",
            name=op.f("uq_oracle_campaign_id_name_version_fidelity"),
        ),
    )
    op.create_table(
        "current_value",
        sa.Column("candidate_id", sa.Integer(), nullable=False),
        sa.Column("property", sa.String(length=200), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_current_value_campaign_id")),
        sa.ForeignKeyConstraint(["candidate_id"], ["candidate.id"], name=op.f("fk_current_value_candidate_id")),
        sa.PrimaryKeyConstraint("candidate_id", "property", name=op.f("pk_current_value")),
    )
    op.create_index(
        "ix_current_value_campaign_id_property_value",
        "current_value",
        ["campaign_id", "property", "value"],
        unique=False,
    )
    op.create_table(
        "round",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column(
            "state",
            _states(
                "state",
                "planned",
                "fitting",
                "training",
                "proposed",
                "awaiting_approval",
                "dispatched",
                "complete",
                "failed",
                "cancelled",
            ),
            nullable=False,
        ),
        sa.Column("config_version_id", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("prefect_run_id", sa.String(length=36), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_round_campaign_id")),
        sa.ForeignKeyConstraint(
            ["config_version_id"], ["config_version.id"], name=op.f("fk_round_config_version_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_round")),
        sa.UniqueConstraint("campaign_id", "number", name=op.f("uq_round_campaign_id_number")),
    )
    op.create_table(
        "approval",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("round_id", sa.Integer(), nullable=False),
        sa.Column("candidate_id", sa.Integer(), nullable=True),
        sa.Column("decision", _states("decision", "approved", "vetoed"), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.ForeignKeyConstraint(["candidate_id"], ["candidate.id"], name=op.f("fk_approval_candidate_id")),
        sa.ForeignKeyConstraint(["round_id"], ["round.id"], name=op.f("fk_approval_round_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_approval")),
    )
    op.create_table(
        "evaluation",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("round_id", sa.Integer(), nullable=True),
        sa.Column("candidate_id", sa.Integer(), nullable=False),
        sa.Column("oracle_id", sa.Integer(), nullable=False),
        sa.Column("replicate", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("idempotency_key", sa.String(length=64), nullable=False),
        sa.Column(
            "state",
            _states("state", "queued", "running", "done", "failed", "unknown", "cancelled"),
            nullable=False,
        ),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_evaluation_campaign_id")),
        sa.ForeignKeyConstraint(["candidate_id"], ["candidate.id"], name=op.f("fk_evaluation_candidate_id")),
        sa.ForeignKeyConstraint(["oracle_id"], ["oracle.id"], name=op.f("fk_evaluation_oracle_id")),
        sa.ForeignKeyConstraint(["round_id"], ["round.id"], name=op.f("fk_evaluation_round_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluation")),
        sa.UniqueConstraint(
            "candidate_id",
            "oracle_id",
            "replicate",
            name=op.f("uq_evaluation_candidate_id_oracle_id_replicate"),
        ),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_evaluation_idempotency_key")),
    )
    op.create_index("ix_evaluation_campaign_id_state", "evaluation", ["campaign_id", "state"], unique=False)
    op.create_index(op.f("ix_evaluation_round_id"), "evaluation", ["round_id"], unique=False)
    op.create_table(
        "event",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("round_id", sa.Integer(), nullable=True),
        sa.Column("kind", sa.String(length=50), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_event_campaign_id")),
        sa.ForeignKeyConstraint(["round_id"], ["round.id"], name=op.f("fk_event_round_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
    )
    op.create_index(op.f("ix_event_campaign_id"), "event", ["campaign_id"], unique=False)
    op.create_table(
        "model_fit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("round_id", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(length=50), nullable=False),
        sa.Column("kind", sa.String(length=50), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("data_upto_seq", sa.BigInteger(), nullable=False),
        sa.Column("data_count", sa.Integer(), nullable=False),
        sa.Column("data_sha256", sa.String(length=64), nullable=False),
        sa.Column("parent_id", sa.Integer(), nullable=True),
        sa.Column("diagnostics", sa.JSON(), nullable=False),
        sa.Column("artefact_id", sa.Integer(), nullable=True),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.ForeignKeyConstraint(["artefact_id"], ["artefact.id"], name=op.f("fk_model_fit_artefact_id")),
        sa.ForeignKeyConstraint(["parent_id"], ["model_fit.id"], name=op.f("fk_model_fit_parent_id")),
        sa.ForeignKeyConstraint(["round_id"], ["round.id"], name=op.f("fk_model_fit_round_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_fit")),
        sa.UniqueConstraint("round_id", "role", name=op.f("uq_model_fit_round_id_role")),
    )
    op.create_table(
        "attempt",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("evaluation_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", _states("state", "running", "succeeded", "failed", "expired"), nullable=False),
        sa.Column("owner", sa.String(length=300), nullable=False),
        sa.Column("token", sa.String(length=36), nullable=False),
        sa.Column("lease_until", UtcDateTime(), nullable=False),
        sa.Column("failure", _states("failure", "transient", "permanent", "infeasible"), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("cost_minor", sa.BigInteger(), nullable=True),
        sa.Column("started_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["evaluation_id"], ["evaluation.id"], name=op.f("fk_attempt_evaluation_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempt")),
        sa.UniqueConstraint("evaluation_id", "number", name=op.f("uq_attempt_evaluation_id_number")),
    )
    op.create_table(
        "sampler_run",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("round_id", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(length=50), nullable=False),
        sa.Column("kind", sa.String(length=50), nullable=False),
        sa.Column("model_fit_id", sa.Integer(), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("reward", sa.JSON(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("parent_id", sa.Integer(), nullable=True),
        sa.Column("diagnostics", sa.JSON(), nullable=False),
        sa.Column("artefact_id", sa.Integer(), nullable=True),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.ForeignKeyConstraint(["artefact_id"], ["artefact.id"], name=op.f("fk_sampler_run_artefact_id")),
        sa.ForeignKeyConstraint(["model_fit_id"], ["model_fit.id"], name=op.f("fk_sampler_run_model_fit_id")),
        sa.ForeignKeyConstraint(["parent_id"], ["sampler_run.id"], name=op.f("fk_sampler_run_parent_id")),
        sa.ForeignKeyConstraint(["round_id"], ["round.id"], name=op.f("fk_sampler_run_round_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sampler_run")),
        sa.UniqueConstraint("round_id", "role", name=op.f("uq_sampler_run_round_id_role")),
    )
    op.create_table(
        "ledger",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("evaluation_id", sa.Integer(), nullable=True),
        sa.Column("attempt_id", sa.Integer(), nullable=True),
        sa.Column("kind", _states("kind", "reserve", "spend", "release"), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempt.id"], name=op.f("fk_ledger_attempt_id")),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_ledger_campaign_id")),
        sa.ForeignKeyConstraint(["evaluation_id"], ["evaluation.id"], name=op.f("fk_ledger_evaluation_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger")),
    )
    op.create_index(op.f("ix_ledger_campaign_id"), "ledger", ["campaign_id"], unique=False)
    op.create_table(
        "measurement",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("candidate_id", sa.Integer(), nullable=False),
        sa.Column("evaluation_id", sa.Integer(), nullable=True),
        sa.Column("attempt_id", sa.Integer(), nullable=True),
        sa.Column("property", sa.String(length=200), nullable=False),
        sa.Column("value", sa.Float(), nullable=True),
        sa.Column(
            "qualifier",
            _states("qualifier", "=", "<", ">", "missing", "infeasible", "retracted"),
            nullable=False,
        ),
        sa.Column("sem", sa.Float(), nullable=True),
        sa.Column("n", sa.Integer(), nullable=True),
        sa.Column("unit", sa.String(length=50), nullable=True),
        sa.Column("as_run", sa.JSON(), nullable=True),
        sa.Column("supersedes_id", sa.Integer(), nullable=True),
        sa.Column("source", sa.String(length=200), nullable=False),
        sa.Column("row_id", sa.String(length=200), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempt.id"], name=op.f("fk_measurement_attempt_id")),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_measurement_campaign_id")),
        sa.ForeignKeyConstraint(["candidate_id"], ["candidate.id"], name=op.f("fk_measurement_candidate_id")),
        sa.ForeignKeyConstraint(["evaluation_id"], ["evaluation.id"], name=op.f("fk_measurement_evaluation_id")),
        sa.ForeignKeyConstraint(["supersedes_id"], ["measurement.id"], name=op.f("fk_measurement_supersedes_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_measurement")),
        sa.UniqueConstraint("campaign_id", "seq", name=op.f("uq_measurement_campaign_id_seq")),
        sa.UniqueConstraint(
            "campaign_id",
            "source",
            "row_id",
            "property",
            name=op.f("uq_measurement_campaign_id_source_row_id_property"),
        ),
        sa.UniqueConstraint("supersedes_id", name=op.f("uq_measurement_supersedes_id")),
    )
    op.create_index(op.f("ix_measurement_candidate_id"), "measurement", ["candidate_id"], unique=False)
    op.create_index(op.f("ix_measurement_evaluation_id"), "measurement", ["evaluation_id"], unique=False)
    op.create_table(
        "proposal",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("round_id", sa.Integer(), nullable=False),
        sa.Column("candidate_id", sa.Integer(), nullable=False),
        sa.Column("sampler_run_id", sa.Integer(), nullable=True),
        sa.Column("rank", sa.Integer(), nullable=True),
        sa.Column("origin", sa.String(length=50), nullable=False),
        sa.Column("acquisition", sa.Float(), nullable=True),
        sa.Column("log_reward", sa.Float(), nullable=True),
        sa.Column("log_prob", sa.Float(), nullable=True),
        sa.Column("mean", sa.Float(), nullable=True),
        sa.Column("sd", sa.Float(), nullable=True),
        sa.Column(
            "decision",
            _states(
                "decision",
                "selected",
                "outranked",
                "duplicate",
                "infeasible",
                "diversity",
                "budget",
                "vetoed",
            ),
            nullable=False,
        ),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["candidate_id"], ["candidate.id"], name=op.f("fk_proposal_candidate_id")),
        sa.ForeignKeyConstraint(["round_id"], ["round.id"], name=op.f("fk_proposal_round_id")),
        sa.ForeignKeyConstraint(["sampler_run_id"], ["sampler_run.id"], name=op.f("fk_proposal_sampler_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_proposal")),
        sa.UniqueConstraint("round_id", "candidate_id", name=op.f("uq_proposal_round_id_candidate_id")),
    )
    op.create_index(op.f("ix_proposal_candidate_id"), "proposal", ["candidate_id"], unique=False)
    op.execute(HISTORY)


def downgrade() -> None:
    """Drop the view, then every table."""
    op.execute("DROP VIEW history")
    op.drop_index(op.f("ix_proposal_candidate_id"), table_name="proposal")
    op.drop_table("proposal")
    op.drop_index(op.f("ix_measurement_evaluation_id"), table_name="measurement")
    op.drop_index(op.f("ix_measurement_candidate_id"), table_name="measurement")
    op.drop_table("measurement")
    op.drop_index(op.f("ix_ledger_campaign_id"), table_name="ledger")
    op.drop_table("ledger")
    op.drop_table("sampler_run")
    op.drop_table("attempt")
    op.drop_table("model_fit")
    op.drop_index(op.f("ix_event_campaign_id"), table_name="event")
    op.drop_table("event")
    op.drop_index(op.f("ix_evaluation_round_id"), table_name="evaluation")
    op.drop_index("ix_evaluation_campaign_id_state", table_name="evaluation")
    op.drop_table("evaluation")
    op.drop_table("approval")
    op.drop_table("round")
    op.drop_index("ix_current_value_campaign_id_property_value", table_name="current_value")
    op.drop_table("current_value")
    op.drop_table("oracle")
    op.drop_table("objective")
    op.drop_table("config_version")
    op.drop_table("candidate")
    op.drop_table("balance")
    op.drop_table("artefact")
    op.drop_table("worker")
    op.drop_table("campaign")
