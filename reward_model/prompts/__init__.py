"""The one wording: text files and a small renderer that turns frames into a conversation.

A wording is a folder of ``.txt`` files. ``paper`` follows the block structure of Figs. S4 and S5 (role, frames, five
types, three steps, JSON) in our own words with every hint left out, for full-size models; ``compact`` asks the same in
a few tokens, for the mini judge that was trained with it. Both ask for the schema of :mod:`reward_model.parsing`.

Placeholders are ``{lower_case}`` words and are filled in one pass, so text that came from outside is never formatted
again, braces and HTML included. A wording decides by its placeholders what it shows: ``{cot}`` is the whole reasoning
of turn one, ``{cot_last}`` its last sentence. ``frame.txt`` names a frame; its ``{picture}`` says where the picture
stands, after the name unless the text says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

import numpy as np

from reward_model.conversation import Conversation, Message
from reward_model.digests import text_digest

#: Of each wording, raised by hand when its meaning changes; the hash follows every edit.
REVISIONS = {"paper": 2, "compact": 1}
WORDINGS = tuple(REVISIONS)

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_CHAT_MARKER = re.compile(r"<(?=\|[^|<>\s]{1,40}\|>)")

#: Tokens of an answer that describes its frames one by one as the paper's prompt asks: those of a frame with a person
#: in view (262 counted with Qwen3-VL's vocabulary, and a fifth more), and those of steps two and three with the JSON.
TOKENS_PER_FRAME, TOKENS_OF_THE_REST = 320, 1024

#: (T, H, W, 3) uint8, or a list of (H, W, 3).
Frames = Sequence[np.ndarray] | np.ndarray


@dataclass(frozen=True)
class PromptSet:
    """A wording, ready to render. ``version`` names it for provenance, for instance ``"compact-1+0a1b2c3d"``."""

    name: str
    version: str
    texts: Mapping[str, str] = field(repr=False)

    def scan(self, frames: Frames, prompt: str = "", *, first: int = 0, hint: str = "") -> Conversation:
        """Turn one: the whole video on its sampled grid.

        Args:
            frames: (T, H, W, 3) uint8, or a list of (H, W, 3).
            prompt: the text the video was generated from; shown as data, by wordings that show it.
            first: number announced for the first frame (training on single frames uses other numbers than 0).
            hint: what a teacher is told of the truth (:mod:`reward_model.prompts.hints`); never given to a judge.
        """
        block = self._block("prompt_block", prompt=clean_line(prompt))
        return (self._user("scan", frames, first, prompt_block=block, hint_block=hint),)

    def zoom(self, frames: Frames, prompt: str = "", *, cot: str = "", hint: str = "") -> Conversation:
        """Turn two as a fresh conversation: the clip and turn one's reasoning. ``hint``: see :meth:`scan`."""
        cot = clean_text(cot)
        return (
            self._user(
                "zoom",
                frames,
                0,
                prompt_block=self._block("prompt_block", prompt=clean_line(prompt)),
                cot_block=self._block("cot_block", cot=cot, cot_last=last_sentence(cot)),
                hint_block=hint,
            ),
        )

    def zoom_continued(self, history: Conversation, answer: str, frames: Frames, prompt: str = "") -> Conversation:
        """Turn two in the same chat: after turn one and its verbatim answer. ``prompt`` was already shown in turn
        one.
        """
        del prompt
        return (*history, Message("assistant", (clean_text(answer),)), self._user("zoom_continued", frames, 0))

    def _user(self, template: str, frames: Frames, first: int, **values: str) -> Message:
        if len(frames) == 0:
            raise ValueError(f"the {template} prompt needs at least one frame")
        last = first + len(frames) - 1
        before, after = self.texts[template].split("{frames}")
        values = {"first_frame": str(first), "last_frame": str(last), "num_frames": str(len(frames)), **values}
        values["types_block"] = self.texts.get("types_block", "")
        values["steps_block"] = fill(self.texts.get("steps_block", ""), values)
        name, _, name_after = self.texts["frame"].partition("{picture}")
        content: list[str | np.ndarray] = [fill(before, values)]
        for number, frame in enumerate(frames, first):
            named = {"number": str(number)}
            content += [fill(name, named), frame, fill(name_after, named)]
        content.append(fill(after, values))
        return Message("user", tuple(part for part in content if not (isinstance(part, str) and not part)))

    def _block(self, name: str, **values: str) -> str:
        """An optional block: nothing when the wording has no such file or there is nothing to show."""
        return fill(self.texts[name], values) if name in self.texts and any(values.values()) else ""


def fill(template: str, values: Mapping[str, str]) -> str:
    """``template`` with its placeholders replaced, in one pass.

    Raises:
        ValueError: if the template names a placeholder that ``values`` lacks.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ValueError(f"unknown placeholder {match[0]} in a prompt; known: {', '.join(sorted(values))}")
        return values[match[1]]

    return _PLACEHOLDER.sub(value, template)


def clean_text(text: str) -> str:
    """Outside text made safe to show: control and invisible direction characters removed, chat markers such as
    ``<|im_end|>`` disarmed by a space.
    """
    return _CHAT_MARKER.sub("< ", _CONTROL.sub("", text))


def clean_line(text: str) -> str:
    """:func:`clean_text` on one line, so that the text cannot leave the delimiters around it."""
    return " ".join(clean_text(re.sub(r"\s", " ", text)).split())


def last_sentence(text: str) -> str:
    """The last sentence of a text, which is where the reasoning concludes."""
    return re.split(r"(?<=[.!?])\s+", text.strip())[-1]


def answer_limit(num_frames: int, most: int | None = None) -> int:
    """New tokens that an answer about ``num_frames`` frames may have: ``most``, or where no limit is set room for a
    paragraph about each frame (step one of the prompt), coherence, assessment and boxes. An answer that is cut counts
    as unreadable.

    >>> answer_limit(21), answer_limit(21, 128)
    (7744, 128)
    """
    return TOKENS_PER_FRAME * num_frames + TOKENS_OF_THE_REST if most is None else most


def wording_note(prompts: PromptSet, trained: str | None) -> str:
    """Warning if a checkpoint was trained with another revision of its wording, else ``""``.

    Args:
        prompts: what it is asked in.
        trained: the version in its ``judge.json``; None: not known.

    Example:
        >>> wording_note(load_prompts("compact"), "compact-1+1b1865a8")
        ''
    """
    asked = prompts.version.partition("+")[0]
    known = (trained or "").partition("+")[0]
    if not known or known == asked:
        return ""
    return (
        f"this checkpoint was trained with the wording {known} and is asked with {asked}: answers can be worse than "
        "measured. Train it on, or ask it with the release it came with"
    )


@cache
def load_prompts(name: str = "paper") -> PromptSet:
    """The wording of that name.

    Raises:
        ValueError: if there is no such wording.
    """
    if name not in WORDINGS:
        raise ValueError(f"no prompt wording {name!r}; expected one of {', '.join(map(repr, WORDINGS))}")
    texts = read_texts(name)
    return PromptSet(name=name, version=f"{name}-{REVISIONS[name]}+{texts_digest(texts)}", texts=texts)


def read_texts(name: str) -> dict[str, str]:
    """The texts of a folder of this package, by the names of their files."""
    folder = files(__package__) / name
    entries = sorted((f for f in folder.iterdir() if f.name.endswith(".txt")), key=lambda f: f.name)
    return {f.name.removesuffix(".txt"): f.read_text(encoding="utf-8").removesuffix("\n") for f in entries}


def texts_digest(texts: Mapping[str, str]) -> str:
    """Eight hex digits that change with any name or text."""
    return text_digest("\0".join(f"{key}\0{text}" for key, text in texts.items()))[:8]
