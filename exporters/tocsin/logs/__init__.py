"""Structured logs: one schema for structlog, the standard library and the access line, correlated and redacted."""
