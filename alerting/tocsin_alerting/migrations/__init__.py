"""The tables of the alert router, as Alembic migrations."""
