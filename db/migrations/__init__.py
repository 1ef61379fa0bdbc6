"""Alembic migrations. A migration that has been released is never changed."""
