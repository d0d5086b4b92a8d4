"""Measurements of speed and coverage: ``python -m benchmarks [NAME ...]`` runs them and writes ``results.md``."""
