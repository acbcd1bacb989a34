"""Benches: ``bench`` (procedural videos, numbered), ``hard``, ``records`` (annotated files), ``names`` (as typed)."""
