"""Checks that are repeated over many seeds or cases: a few in ``make test``, all of them in ``make test-all``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


class Scale:
    """Scale of this run, set by ``conftest.py`` before any test is collected: whole where slow tests run too."""

    whole = False


def draws(whole: int, few: int) -> int:
    """The number of draws of a check: ``whole`` where slow tests run too, otherwise ``few``."""
    return whole if Scale.whole else few


def slow_but(cases: Iterable[Any], *fast: Any) -> list[Any]:
    """The cases of ``pytest.mark.parametrize``, all slow but those named; a tuple has a value for each argument."""
    cases = list(cases)
    assert all(case in cases for case in fast), f"{fast} are not all among {cases}"
    values = [case if isinstance(case, tuple) else (case,) for case in cases]
    marks = [() if case in fast else pytest.mark.slow for case in cases]
    return [pytest.param(*value, marks=mark) for value, mark in zip(values, marks, strict=True)]
