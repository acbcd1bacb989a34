"""Programs at a terminal: ``program`` runs one and turns whatever goes wrong into one line and an exit code, ``parser``
reads its options, ``described`` lets settings explain themselves in ``help()``, ``--help`` and the docs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reward_model.lazy import lazy_names

_HOMES = {
    "DEBUG_VARIABLE": "reward_model.terminal.program",
    "as_typed": "reward_model.terminal.program",
    "explain": "reward_model.terminal.program",
    "printable": "reward_model.terminal.program",
    "quiet_bars": "reward_model.terminal.program",
    "quiet_libraries": "reward_model.terminal.program",
    "run_program": "reward_model.terminal.program",
    "score_text": "reward_model.terminal.program",
    "set_up_output": "reward_model.terminal.program",
    "set_verbosity": "reward_model.terminal.program",
}

__all__ = [
    "DEBUG_VARIABLE",
    "as_typed",
    "explain",
    "printable",
    "quiet_bars",
    "quiet_libraries",
    "run_program",
    "score_text",
    "set_up_output",
    "set_verbosity",
]

if TYPE_CHECKING:
    from reward_model.terminal.program import (
        DEBUG_VARIABLE,
        as_typed,
        explain,
        printable,
        quiet_bars,
        quiet_libraries,
        run_program,
        score_text,
        set_up_output,
        set_verbosity,
    )

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
