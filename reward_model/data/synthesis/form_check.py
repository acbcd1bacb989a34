"""Form of an answer's text, whatever it says: no mention of a hint, one paragraph per frame (Fig. S4)."""

from __future__ import annotations

import re
from collections import Counter

from reward_model.schema import TurnReport

#: Ways a teacher gives away that it was told something, matched in any case at word boundaries. "A hint of red"
#: describes a picture and passes, and so does a word about the video's prompt, which a judge is shown as well.
LEAK_PHRASES: tuple[str, ...] = (
    r"hints?(?! of\b)",
    r"hinted",
    r"as (?:i (?:was|am) |we (?:were|are) )?(?:told|instructed|informed|suggested|advised)",
    r"(?:i|we) (?:was|were|am|are|have been|had been) (?:told|informed|instructed|given)",
    r"according to (?:the|this|these|my|your)?\s*(?:human |given |provided )?"
    r"(?:annotations?|annotators?|ground truth|information|instructions?|notes?|people|labels?)",
    r"(?:the|human|given|provided) annotat(?:ions?|ors?)",
    r"ground[- ]truth",
    r"reference (?:coordinates?|box(?:es)?|bounding box(?:es)?)",
    r"(?:given|provided|supplied) (?:information|coordinates?|box(?:es)?|bounding box(?:es)?|labels?)",
    r"(?:mentioned|noted|indicated|stated|pointed out) in the (?:task|question|instructions?)",
    r"human (?:reviewers?|judges?|judge?ments?|raters?)",
    r"people (?:have |had )?(?:judged|found|noted|reported|said)",
    r"(?:enlarged|cropped) (?:pictures?|images?|crops?|views?)",
)
_LEAK = re.compile(rf"\b(?:{'|'.join(LEAK_PHRASES)})\b", re.IGNORECASE)

# A paragraph opens at the start of the text, of a line (with list or heading marks) or of a sentence.
# Repeats are bounded or possessive: the text is a model's, and may be a page of blanks.
_OPENING = r"(?:\A|\n|(?<=[.!?:\"')\]])\s)[-*#>\d.)( \t]{0,40}+"
_HEAD = re.compile(rf"{_OPENING}Frame\s++#?(\d{{1,6}})\s*+\**+\s*+:", re.IGNORECASE)
_RANGE_HEAD = re.compile(
    rf"{_OPENING}Frames?\s++#?\d{{1,6}}\s*+(?:[-\u2010-\u2015~,&]|to|through|and)\s*+(?:Frames?\s++)?#?\d{{1,6}}"
    r"\s*+\**+\s*+:",
    re.IGNORECASE,
)
_LATER_STEP = re.compile(r"(?:\A|\n|(?<=[.!?:])\s)[ \t]{0,40}+[*#]{0,10}+\s{0,40}+Step\s*+[23]\b", re.IGNORECASE)


def find_leak(report: TurnReport) -> str | None:
    """The first words of an answer that give the hint away, or None.

    Example:
        >>> find_leak(TurnReport("normal", "Frame 0: as told, all is well."))
        'as told'
    """
    texts = (report.cot, *(text for a in report.anomalies for text in (a.reason, a.region)))
    return next((leak[0] for text in texts if (leak := _LEAK.search(text))), None)


def first_step(cot: str) -> str:
    """The reasoning up to the heading of step 2, all of it where there is no such heading."""
    later = _LATER_STEP.search(cot)
    return cot[: later.start()] if later else cot


def frame_heads(cot: str) -> list[re.Match[str]]:
    """The openings ``Frame N:`` of step 1, in order; group 1 is the number."""
    return list(_HEAD.finditer(first_step(cot)))


def frame_fault(cot: str, num_frames: int) -> str | None:
    """Fault in the paragraphs of step 1, or None: each of the frames 0 to ``num_frames - 1`` has exactly one, in order,
    and none stands for a range.

    Example:
        >>> frame_fault("Frame 0: normal. Frame 2: normal.", 3)
        'no paragraph for frame 1'
    """
    if found := _RANGE_HEAD.search(first_step(cot)):
        return f"a paragraph for several frames: {found[0].strip()!r}"
    numbers = [int(head[1]) for head in frame_heads(cot)]
    counts = Counter(numbers)
    missing = [k for k in range(num_frames) if k not in counts]
    if missing:
        return f"no paragraph for frame {_some(missing)}"
    twice = [k for k, count in counts.items() if count > 1]
    if twice:
        return f"more than one paragraph for frame {_some(twice)}"
    beyond = [k for k in numbers if k >= num_frames]
    if beyond:
        return f"a paragraph for frame {_some(beyond)} of a clip of {num_frames}"
    return None if numbers == sorted(numbers) else "paragraphs are not in the order of the frames"


def _some(frames: list[int]) -> str:
    return ", ".join(map(str, frames[:5])) + (f" and {len(frames) - 5} more" if len(frames) > 5 else "")
