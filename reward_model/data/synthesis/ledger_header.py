"""The settings a ledger was begun with, and what may change when it is continued."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reward_model.journal import JournalError
from reward_model.strict_json import differences


class LedgerError(JournalError):
    """The ledger cannot be continued. The message names what differs and what to do."""


@dataclass(frozen=True)
class LedgerHeader:
    """``asked`` decides the answers (models, wording, sampling); ``rules`` only what they are held to. ``contents`` has
    digests of what ``asked`` names by a path: of equal content, it is the same, wherever it lies now.
    """

    asked: Mapping[str, Any]
    rules: Mapping[str, Any]
    contents: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON gives it back, so that headers can be compared."""
        parts = {"ledger": 1, "asked": self.asked, "rules": self.rules}
        plain: dict[str, Any] = json.loads(json.dumps({**parts, "contents": self.contents} if self.contents else parts))
        return plain


def check_header(path: Path, known: Mapping[str, Any], header: LedgerHeader, *, accept_new_rules: bool) -> bool:
    """Compares the rules; True if they changed and the change is accepted, so that a new header is due.

    Raises:
        LedgerError: if the questions changed, or the rules did and are not accepted.
    """
    now = header.to_dict()
    same = {k for k, digest in (known.get("contents") or {}).items() if header.contents.get(k) == digest}
    moved = {k: value for k, value in (known.get("asked") or {}).items() if k in same}
    asked = differences(known.get("asked"), {**now["asked"], **moved})
    rules = differences(known.get("rules"), now["rules"])
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
