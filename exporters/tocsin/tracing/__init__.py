"""Traces: W3C context in and out, spans of our own, and their export over OTLP."""
