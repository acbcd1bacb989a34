"""Benches: ``bench`` (procedural videos, numbered), ``hard``, ``shift``, ``demanding``, ``records`` (annotated files),
``names`` (as typed).
"""
