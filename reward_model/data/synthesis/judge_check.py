"""The reviewer of Fig. S6: one word about one report. Anything but that word is a failed check."""

from __future__ import annotations

from typing import Literal

from reward_model.conversation import Conversation
from reward_model.data.synthesis.tasks import Task
from reward_model.prompts.verification import load_verification

Word = Literal["consistent", "inconsistent", "unclear"]


def review_question(task: Task, answer: str) -> Conversation:
    """The reviewer's question about a teacher's answer; abnormal samples only (docs/paper_notes.md).

    Raises:
        ValueError: if the sample is normal; those are verified by their status alone.
    """
    if task.normal:
        raise ValueError(f"{task.key}: a normal sample has nothing to review; its status decides")
    return load_verification().ask(
        task.turn, segment_id=task.key, video_id=task.record.truth.video_id, truth=task.truth, analysis=answer
    )


def review_word(answer: str) -> Word:
    """The verdict of a reviewer's answer: exactly one of the two words, in any case and with space around it.

    Example:
        >>> review_word("Consistent\\n"), review_word("consistent, I think"), review_word("inconsistent")
        ('consistent', 'unclear', 'inconsistent')
    """
    word = answer.strip().lower()
    if word == "consistent":
        return "consistent"
    return "inconsistent" if word == "inconsistent" else "unclear"
