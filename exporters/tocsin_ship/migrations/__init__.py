"""The tables of the embedded store."""
