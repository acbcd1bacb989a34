"""The wording of episodes: the first view, what an operator brought, and when the answer has to come.

The texts stand apart from those of the two turns, whose version is part of every checkpoint. ``compact`` names frames
as it does everywhere, so that a mini reads them as it was taught to, and lets operators name frames of the view;
``paper`` puts the time beside each frame and lets operators name seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from reward_model.conversation import Conversation, Message
from reward_model.prompts import Frames, PromptSet, clean_line, clean_text, fill, load_prompts, read_texts, texts_digest

#: Raised by hand when the meaning of these texts changes; the hash follows every edit.
ACTIVE_REVISION = 1


@dataclass(frozen=True)
class ActiveWording:
    """A wording, ready to render.

    Attributes:
        base: wording of the two turns that it belongs to.
        version: names it for provenance.
        frames_in_moves: operators name frames of the view, not seconds.
    """

    base: PromptSet
    version: str
    frames_in_moves: bool
    texts: Mapping[str, str] = field(repr=False)

    def first(
        self, frames: Frames, times: Sequence[float], prompt: str = "", *, must_answer: bool, **numbers: object
    ) -> Conversation:
        """The beginning of an episode.

        Args:
            frames: (N, H, W, 3) uint8 of the first view.
            times: second of each of them.
            prompt: the text the video was made from; shown as data, by wordings that show it.
            must_answer: whether the answer has to come at once.
            numbers: ``seconds``, ``max_operators``, ``max_frames`` and ``max_view_frames``, for wordings that say them.
        """
        block = ""
        if "prompt_block" in self.base.texts and clean_line(prompt):
            block = fill(self.base.texts["prompt_block"], {"prompt": clean_line(prompt)})
        return (self._user("first", frames, times, must_answer, prompt_block=block, **numbers),)

    def more(
        self, history: Conversation, answer: str, frames: Frames, times: Sequence[float], *, must_answer: bool
    ) -> Conversation:
        """The chat so far, what was answered, and the frames that this brought."""
        return (*history, _said(answer), self._user("more", frames, times, must_answer, note=""))

    def refused(self, history: Conversation, answer: str, note: str, *, must_answer: bool) -> Conversation:
        """The chat so far, what was answered, and why it brought nothing."""
        text = fill(self.texts["note"], {"note": clean_line(note) + "\n", "ask": self._ask(must_answer)})
        return (*history, _said(answer), Message("user", (text,)))

    def _ask(self, must_answer: bool) -> str:
        return self.texts["answer" if must_answer else "look"]

    def _user(
        self, template: str, frames: Frames, times: Sequence[float], must_answer: bool, **values: object
    ) -> Message:
        if len(frames) == 0 or len(frames) != len(times):
            raise ValueError(f"an observation needs frames and the time of each, got {len(frames)} and {len(times)}")
        before, after = self.texts[template].split("{frames}")
        said = {k: str(v) for k, v in values.items()}
        said |= {"ask": self._ask(must_answer), "num_frames": str(len(frames))}
        said["types_block"] = self.base.texts.get("types_block", "")
        name, _, name_after = self.texts["frame"].partition("{picture}")
        content: list[str | np.ndarray] = [fill(before, said)]
        for number, (frame, time) in enumerate(zip(frames, times, strict=True)):
            named = {"number": str(number), "time": f"{time:.2f}"}
            content += [fill(name, named), frame, fill(name_after, named)]
        content.append(fill(after, said))
        return Message("user", tuple(part for part in content if not (isinstance(part, str) and not part)))


def _said(answer: str) -> Message:
    return Message("assistant", (clean_text(answer),))


@cache
def load_active_wording(name: str) -> ActiveWording:
    """The wording of episodes that belongs to a wording of the two turns.

    Raises:
        ValueError: if there is no such wording.
    """
    base = load_prompts(name)
    own = {k.removeprefix(f"{name}_"): text for k, text in read_texts("active").items() if k.startswith(f"{name}_")}
    texts = {"frame": base.texts["frame"], **own}
    version = f"{base.version}, active-{ACTIVE_REVISION}+{texts_digest(texts)}"
    return ActiveWording(base, version, name == "compact", texts)
