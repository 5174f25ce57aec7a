"""Alembic migrations of the prober's tables; `tocsin_service.db.Database.open` runs them."""
