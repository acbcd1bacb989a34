"""Checks that are repeated over many seeds: a few of the draws in ``make test``, all of them in ``make test-all``."""

from __future__ import annotations


class Scale:
    """Scale of this run, set by ``conftest.py`` before any test is collected: whole where slow tests run too."""

    whole = False


def draws(whole: int, few: int) -> int:
    """The number of draws of a check: ``whole`` where slow tests run too, otherwise ``few``."""
    return whole if Scale.whole else few
