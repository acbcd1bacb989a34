"""Checks that are repeated over many seeds or cases: a few of them in ``make test``, all of them in ``make test-all``."""

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
    """The cases of ``pytest.mark.parametrize``, all slow but those named: one or two tell what most bugs would break."""
    cases = list(cases)
    assert all(case in cases for case in fast), f"{fast} are not all among {cases}"
    return [case if case in fast else pytest.param(case, marks=pytest.mark.slow) for case in cases]
