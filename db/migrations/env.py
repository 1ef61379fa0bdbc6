"""Run migrations on the connection that `db.migrate` hands over, inside its transaction."""

from alembic import context

from flowscout.db.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite changes a table by copying it
    compare_type=True,
)
context.run_migrations()
