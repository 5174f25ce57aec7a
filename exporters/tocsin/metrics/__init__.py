"""Counts and durations: kept in cells, shared by the workers of a server, shown on a page for Prometheus."""
