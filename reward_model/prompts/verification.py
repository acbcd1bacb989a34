"""Prompts of the synthesis of reasoning alone: the reviewer's question of Fig. S6 and the words around enlarged parts.

These texts stand apart from the wordings of the judge, whose version is part of every checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from reward_model.conversation import Conversation, Message
from reward_model.prompts import clean_line, clean_text, fill, load_prompts, read_texts, texts_digest
from reward_model.prompts.hints import describe_errors
from reward_model.schema import Anomaly

#: The line above and below the report, which the reviewer reads as data.
FENCE = "=========="


@dataclass(frozen=True)
class VerificationPrompts:
    """The texts, with the version that provenance names, for instance ``"verify+0a1b2c3d"``."""

    version: str
    texts: Mapping[str, str] = field(repr=False)

    def ask(
        self, turn: Literal["scan", "zoom"], *, segment_id: str, video_id: str, truth: Sequence[Anomaly], analysis: str
    ) -> Conversation:
        """The question whether a report agrees with what people found. Text only, as in the paper.

        Args:
            turn: the alternative of points 2 and 4 that applies.
            segment_id, video_id: what the report is about; shown on one line each.
            truth: the annotated anomalies on the frames of that turn.
            analysis: the whole answer under review.
        """
        values = {
            "segment_id": clean_line(segment_id),
            "video_id": clean_line(video_id),
            "gt_error_str": describe_errors(truth),
            "types_block": self.texts["types_block"],
            # A fence inside the report would end it early.
            "full_analysis_str": clean_text(analysis).replace(FENCE, "---"),
        }
        return (Message("user", (fill(self.texts[f"verify_{turn}"], values),)),)


@cache
def load_verification() -> VerificationPrompts:
    """The texts of the package."""
    texts = read_texts("verify")
    # The teacher and the reviewer are told the same of the five types (B.2).
    texts["types_block"] = load_prompts("paper").texts["types_block"]
    return VerificationPrompts(f"verify+{texts_digest(texts)}", texts)
