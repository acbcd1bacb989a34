"""The settings a ledger was begun with, and what may change when it is continued."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward_model.journal import JournalError
from reward_model.strict_json import differences


class LedgerError(JournalError):
    """The ledger cannot be continued. The message names what differs and what to do."""


@dataclass(frozen=True)
class LedgerHeader:
    """``asked`` decides the answers (models, wording, sampling); ``rules`` only what they are held to."""

    asked: Mapping[str, Any]
    rules: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As JSON gives it back, so that headers can be compared."""
        plain: dict[str, Any] = json.loads(json.dumps({"ledger": 1, "asked": self.asked, "rules": self.rules}))
        return plain


def check_header(path: Path, known: Mapping[str, Any], header: LedgerHeader, *, accept_new_rules: bool) -> bool:
    """Compares the rules; True if they changed and the change is accepted, so that a new header is due.

    Raises:
        LedgerError: if the questions changed, or the rules did and are not accepted.
    """
    now = header.to_dict()
    asked, rules = (differences(known.get(part), now[part]) for part in ("asked", "rules"))
    if asked:
        raise LedgerError(
            f"{path} holds answers to other questions: {'; '.join(asked)}. Use another output folder, or the earlier "
            "settings"
        )
    if rules and not accept_new_rules:
        raise LedgerError(
            f"{path} was checked by other rules: {'; '.join(rules)}. Use the earlier ones, or accept these for all "
            "recorded answers (accept_new_rules)"
        )
    return bool(rules)
