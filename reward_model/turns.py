"""A turn: its question (frames and words), the reading of its answer, and the score of its verdict (3.4; C.1).

Pure functions of a checkpoint's settings: the judge and stage 3 both ask and read through them, so that a judge is
trained on the questions it will be asked.

Three readouts of the same judge:

- ``paper``: Equation 7 after the judge's own reasoning. It saturates: the verdict word mostly repeats what the
  reasoning said.
- ``direct``: Equation 7 with the verdict forced before any reasoning, graded where ``paper`` is 0 or 1.
- ``log_odds``: ``direct`` with its log-odds divided by a temperature, so that float32 and averages with other rewards
  keep the grading.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from reward_model.config import READOUTS, JudgeConfig
from reward_model.conversation import Conversation
from reward_model.parsing import (
    ANOMALIES,
    COT,
    MAX_ANSWER_LENGTH,
    STATUS,
    STATUS_PREFIX,
    ParseError,
    find_status,
    forced_prefix,
    joined,
    parse_turn,
    straight_quotes,
    whole_characters,
)
from reward_model.prompts import Frames, PromptSet, answer_limit
from reward_model.schema import FrameRange, Status, Turn, TurnReport, VerdictScore
from reward_model.tracks.codec import asked_for, codec_of
from reward_model.tracks.ticks import frame_times
from reward_model.video.clip import native_window, zoom_indices
from reward_model.video.framing import AS_IT_IS, Framing

#: The two verdict words as canonical answers spell them: normal first, as in :class:`VerdictScore`.
WORDS = ("normal", "abnormal")

#: Wordings whose judges are taught one sentence "Frame N: ..." for every frame they are shown.
FRAME_BY_FRAME = ("compact",)
_DESCRIBED = re.compile(r"\bFrame (\d{1,6}):")

_SPACE = r"(?:\s|\\[nrtbf])*+"
_WRITTEN = re.compile(rf"({_SPACE})((?:ab)?normal){_SPACE}", re.IGNORECASE)
# In an answer that is not JSON: a status key that follows another value, or begins the object.
_LOOSE_STATUS = re.compile(rf'(?<=[,{{])\s*+("\s*+{STATUS}\s*+"\s*+:\s*+"({_SPACE}(?:ab)?normal)\b)', re.IGNORECASE)
_OPEN_COT = re.compile(rf'\{{\s*+"\s*+{COT}\s*+"\s*+:\s*+"', re.IGNORECASE)
_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})|[\\"]')
_QUOTE_OR_ESCAPE = re.compile(r'\\.|"', re.DOTALL)
# What follows the quote that ends the reasoning: the end of the answer, or the next key, perhaps cut.
_AFTER_COT = re.compile(
    rf'\s*+(?:\Z|\}}[\s}}`]*+\Z|,\s*+(?:\Z|"[^"\\]{{0,20}}+\Z|"\s*+(?:{STATUS}|{ANOMALIES})\s*+"))', re.IGNORECASE
)
_LEGIBLE = re.compile(r'"status"\s?:\s?"\s?((?:ab)?normal)\s?"', re.IGNORECASE)


@dataclass(frozen=True)
class VideoView:
    """A video as the turns see it.

    Attributes:
        num_frames, fps: its native frames, and how many of them a second has.
        take: native indices -> (N, H, W, 3) uint8, as they are shown; may raise where they cannot be read.
        prompt: the text it was made from.
        framing: how its frames sit in what is shown.
        size: height and width of the native frames, before any enlarging for players; None: not known.
    """

    num_frames: int
    fps: float
    take: Callable[[Sequence[int]], Frames]
    prompt: str = ""
    framing: Framing = AS_IT_IS
    size: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class TurnRequest:
    """One question: turn one (scan) or two (zoom), the native frames it shows, the messages, the most new tokens of its
    answer, on what picture that one's boxes lie, and the seconds of the frames of turn two.
    """

    number: int
    indices: tuple[int, ...]
    conversation: Conversation
    max_new_tokens: int
    framing: Framing = AS_IT_IS
    times: tuple[float, ...] = ()


@dataclass(frozen=True)
class Reading:
    """An answer as it counts.

    Attributes:
        report: what it says, its boxes on the native frame; None if it is invalid.
        status: that of the report, or one that is legible all the same (``lenient_invalid``).
        error: why there is no report.
    """

    report: TurnReport | None = None
    status: Status | None = None
    error: ParseError | None = None


# --- its question -----------------------------------------------------------------------------------------------------


def scan_request(view: VideoView, grid: tuple[int, ...], config: JudgeConfig, wording: PromptSet) -> TurnRequest:
    """Turn one about one of the video's grids (:func:`reward_model.chunks.scan_grids`), native frame indices."""
    limit = answer_limit(len(grid), config.max_scan_tokens)
    return TurnRequest(1, grid, wording.scan(view.take(grid), view.prompt), limit, view.framing)


def turn_two_clips(
    report: TurnReport, indices: Sequence[int], num_frames: int, fps: float, config: JudgeConfig
) -> list[tuple[int, ...]]:
    """Native indices of each clip turn two is shown: one of the hull of turn one's windows; or, with
    ``crop="per_window"``, one of each window where the hull has more frames than ``max_zoom_frames``. None if turn
    one found nothing, or the checkpoint has one turn only.

    Args:
        report: report of turn one.
        indices: the native frames turn one was shown.
        num_frames, fps: length and frame rate of the video.
    """
    if report.window is None or config.num_turns == 1:
        return []

    def cut(window: FrameRange, most: int = config.max_zoom_frames) -> tuple[int, ...]:
        native = native_window(window, indices, num_frames, margin=config.window_margin)
        limits = {"min_frames": config.min_zoom_frames, "max_frames": most}
        return tuple(zoom_indices(native, num_frames, fps, config.zoom_fps, **limits))

    if config.crop == "per_window" and len(cut(report.window, most=10**6)) > config.max_zoom_frames:
        return [cut(w) for w in joined([a.frames for a in report.anomalies])]
    return [cut(report.window)]


def zoom_request(
    view: VideoView,
    scan: TurnRequest,
    answer: str,
    report: TurnReport,
    clip: tuple[int, ...],
    config: JudgeConfig,
    wording: PromptSet,
) -> TurnRequest:
    """Turn two about one clip: in a chat of its own with turn one's reasoning (``context="fresh"``) or without
    (``"clip_only"``), or as the next message of turn one's chat (``"chat"``).

    Args:
        scan, answer, report: turn one, what was answered, and that as it was read.
        clip: one of :func:`turn_two_clips`.
    """
    frames, limit = view.take(clip), answer_limit(len(clip), config.max_zoom_tokens)
    if config.context == "chat":
        chat = wording.zoom_continued(scan.conversation, answer, frames, view.prompt)
    else:
        chat = wording.zoom(frames, view.prompt, cot=passed_reasoning(report, config))
    times = frame_times(clip, view.fps)
    return TurnRequest(2, clip, asked_for(codec_of(config), chat, times), limit, view.framing, times)


def passed_reasoning(report: TurnReport, config: JudgeConfig) -> str:
    """Turn one's reasoning as a new chat of turn two shows it; videos of one clip and one such text get one and the
    same question.
    """
    return report.cot if config.context == "fresh" else ""


# --- the reading of its answer ----------------------------------------------------------------------------------------


def read_answer(text: str, turn: int, num_frames: int, config: JudgeConfig, times: Sequence[float] = ()) -> TurnReport:
    """The report of an answer, as strict as the judge is set. ``times`` are the seconds of turn two's frames; without
    them there are ``zoom_fps`` a second.

    Raises:
        ParseError: if it does not follow the schema; if its reasoning goes frame by frame, as the compact wording's
            does, and leaves frames out; or, with ``require_all_frames``, an anomaly of turn two has no box on some
            frame of the clip (the prompt of Fig. S5 asks for one on each), or at some tick.
    """
    if turn == 1:
        report = parse_turn(text, turn=1, num_frames=num_frames)
    else:
        times = times or [k / config.zoom_fps for k in range(num_frames)]
        report = codec_of(config).parse(text, times, complete=config.require_all_frames)
    if config.prompts in FRAME_BY_FRAME and (left_out := frames_left_out(report.cot, num_frames)):
        raise ParseError(f"{COT} describes no frame {left_out[0]} of the {num_frames} that were shown", text)
    return report


def frames_left_out(reasoning: str, num_frames: int) -> list[int]:
    """The shown frames that a reasoning which goes frame by frame has no sentence about; none for any other.

    Example:
        >>> frames_left_out("Frame 0: normal. Frame 1: normal. No anomaly.", 4)
        [2, 3]
    """
    described = {int(number) for number in _DESCRIBED.findall(reasoning)}
    return sorted({*range(num_frames)} - described) if described else []


def read_turn(
    text: str,
    turn: int,
    num_frames: int,
    config: JudgeConfig,
    framing: Framing,
    *,
    cut_after: int | None = None,
    times: Sequence[float] = (),
) -> Reading:
    """:func:`read_answer` with its boxes on the native frame, and what is left of an answer that cannot be read.

    Args:
        framing: how the frames were shown that the answer is about.
        cut_after: tokens after which a limit cut the answer; None: it ended by itself. One that was cut is invalid even
            if what is there can be read: it has not ended, and what would have followed may take it back.
        times: see :func:`read_answer`.
    """
    try:
        report = framing.native_report(read_answer(text, turn, num_frames, config, times))
        if cut_after is not None:
            raise ParseError(cut_reason(cut_after), text)
    except ParseError as error:
        return Reading(status=legible_status(text, config), error=error)
    return Reading(report, report.status)


def cut_reason(num_tokens: int) -> str:
    """Reason why an answer is invalid that a limit cut."""
    return f"cut after {num_tokens} tokens"


def legible_status(text: str, config: JudgeConfig) -> Status | None:
    """The status of an answer outside the schema, where it states one and no other and ``lenient_invalid`` lets it
    count.
    """
    if not config.lenient_invalid:
        return None
    said = {word.lower() for word in _LEGIBLE.findall(text)}
    if said == {"normal"}:
        return "normal"
    return "abnormal" if said == {"abnormal"} else None


def merge_statuses(statuses: Sequence[Status | None]) -> Status | None:
    """The status of several clips together: abnormal if any is, unknown if any is unknown and none abnormal."""
    if "abnormal" in statuses:
        return "abnormal"
    return None if None in statuses or not statuses else "normal"


def merge_clips(
    clips: Sequence[tuple[TurnReport | None, Sequence[int]]],
) -> tuple[TurnReport | None, tuple[int, ...]]:
    """The reports about several clips of a video as one: abnormal if any confirms, invalid if any is invalid.

    Returns:
        The report on the joint grid, and that grid in native frames; ``(None, ())`` of no clip.
    """
    grid = tuple(sorted({n for _, indices in clips for n in indices}))
    if not clips or any(report is None for report, _ in clips):
        return None, grid
    if len(clips) == 1:
        return clips[0][0], grid
    place = {n: k for k, n in enumerate(grid)}
    anomalies = tuple(
        replace(
            a,
            frames=FrameRange(place[indices[a.frames.start]], place[indices[a.frames.end]]),
            boxes={place[indices[k]]: v for k, v in a.boxes.items()},
        )
        for report, indices in clips
        if report is not None
        for a in report.anomalies
    )
    cot = "\n".join(report.cot for report, _ in clips if report is not None)
    return TurnReport("abnormal" if anomalies else "normal", cot, anomalies), grid


# --- the score of its verdict -----------------------------------------------------------------------------------------


class VerdictPrefix(str):
    """The beginning of an answer up to its verdict word, and how the answer spells the two ``words``: the pair to be
    scored after it. A plain string as a prefix means :data:`WORDS`.
    """

    words: tuple[str, str]

    def __new__(cls, text: str, words: tuple[str, str] = WORDS) -> VerdictPrefix:
        prefix = super().__new__(cls, text)
        prefix.words = words
        return prefix


def words_after(prefix: str) -> tuple[str, str]:
    """The two words that a prefix asks for, normal first."""
    return prefix.words if isinstance(prefix, VerdictPrefix) else WORDS


def verdict_prefix(text: str) -> VerdictPrefix | None:
    """The answer up to its verdict word, with the words as it spells them; None when it states no status.

    The key is brought to its canonical spelling, so that the prefix ends in ``"status": "``; spaces between the quote
    and the word belong to the words. An answer that cannot be read as JSON (quotes in the reasoning that are not
    escaped) is read at its own status key, unless several contradict each other.

    Example:
        >>> verdict_prefix('{"COT": "x", "Status":"NORMAL", "anomalies": []}').words
        ('NORMAL', 'ABNORMAL')
    """
    if place := find_status(text):
        return VerdictPrefix(text[: place.key] + STATUS_PREFIX, spelling(place.value))
    if len(text) > MAX_ANSWER_LENGTH:
        return None
    places = list(_LOOSE_STATUS.finditer(straight_quotes(text)))
    if not places or len({match[2].strip().lower() for match in places}) > 1:
        return None
    return VerdictPrefix(text[: places[0].start(1)] + STATUS_PREFIX, spelling(places[0][2]))


def spelling(written: str) -> tuple[str, str]:
    """Both words in the spelling of the one that was written, spaces before it included.

    Example:
        >>> spelling(" Abnormal ")
        (' Normal', ' Abnormal')
    """
    match = _WRITTEN.fullmatch(written)
    if not match:
        return WORDS
    space, word = match[1], match[2]
    case = str.upper if word.isupper() else str.capitalize if word[0].isupper() else str.lower
    is_normal = word.lower() == WORDS[0]
    return space + (word if is_normal else case(WORDS[0])), space + (case(WORDS[1]) if is_normal else word)


def direct_prefix(stated: VerdictPrefix | None = None) -> VerdictPrefix:
    """The beginning of an answer with its verdict before any reasoning, for a judge that spells the words as at the
    place ``stated``.
    """
    return VerdictPrefix(forced_prefix(), words_after(stated) if stated else WORDS)


def completed_prefix(text: str) -> VerdictPrefix:
    """A truncated or broken answer brought to its verdict: the reasoning so far is closed and the status key forced
    after it. What stands before the answer's object is kept.
    """
    text = text[:MAX_ANSWER_LENGTH].strip()
    start = _OPEN_COT.search(straight_quotes(text))
    if not start:
        return VerdictPrefix(forced_prefix(text))
    return VerdictPrefix(text[: start.start()] + forced_prefix(_read_open_string(text[start.end() :])))


def _read_open_string(body: str) -> str:
    """The value of a JSON string that may never have been closed, or holds quotes that should have been escaped."""
    straight = straight_quotes(body)
    ends = (m.start() for m in _QUOTE_OR_ESCAPE.finditer(straight) if m[0] == '"')
    end = next((at for at in ends if _AFTER_COT.match(straight, at + 1)), len(body))
    raw = _ESCAPE.sub(lambda m: m[0] if len(m[0]) > 1 else '\\"' if m[0] == '"' else "", body[:end])
    return whole_characters(json.loads(f'"{raw}"', strict=False))


@dataclass(frozen=True)
class VerdictPlaces:
    """Places where the verdicts of several answered turns are read, one entry per turn.

    Attributes:
        after: prefixes that end after the reasoning; None: not read there.
        before: prefixes that end before any reasoning; None: not read there.
        forced: whether the answer states no status of its own, so that the place after it had to be made.
    """

    after: tuple[VerdictPrefix, ...] | None
    before: tuple[VerdictPrefix, ...] | None
    forced: tuple[bool, ...]


def verdict_places(turns: Sequence[Turn], readout: str, *, all_readouts: bool, reasoning: bool) -> VerdictPlaces:
    """The places that a readout needs; every place with ``all_readouts``. An answer that could not be read gets its
    status from the words after it, whatever the readout.

    Args:
        turns: turns of one number, answered and read.
        readout: one of :data:`READOUTS`.
        reasoning: whether the answers were written by the model; False: they end at the verdict word.
    """
    stated = [verdict_prefix(turn.text) for turn in turns]
    ends = [place or completed_prefix(turn.text) for place, turn in zip(stated, turns, strict=True)]
    starts = [direct_prefix(place) for place in stated]
    if not reasoning:
        return VerdictPlaces(None, tuple(starts), (False,) * len(turns))
    unread = any(turn.report is None and not turn.error for turn in turns)
    return VerdictPlaces(
        after=tuple(ends) if readout == "paper" or all_readouts or unread else None,
        before=tuple(starts) if readout != "paper" or all_readouts else None,
        forced=tuple(place is None for place in stated),
    )


def reward_value(score: VerdictScore, readout: str, temperature: float = 4.0) -> float:
    """The reward of one scored verdict.

    Args:
        score: log-probabilities of both words from the same prefix.
        readout: ``paper`` and ``direct`` apply Equation 7 as printed; ``log_odds`` divides the log-odds by
            ``temperature`` first.
        temperature: above zero; larger is flatter. It never changes the order of videos.

    Example:
        >>> round(reward_value(VerdictScore(-1, -2), "paper"), 4)
        0.7311
    """
    if readout not in READOUTS:
        raise ValueError(f"readout={readout!r} must be one of {', '.join(READOUTS)}")
    if readout != "log_odds":
        return score.p_normal  # P(normal) / (P(normal) + P(abnormal)): the mass on all other words cancels out
    if not temperature > 0:
        raise ValueError(f"log_odds temperature={temperature} must be above zero")
    if math.isinf(score.log_odds):
        return 1.0 if score.log_odds > 0 else 0.0
    # Odds of e^20 and e^30 are both 1.0 in float32; divided by 4 they are 0.9933 and 0.9994. A monotone map of the
    # same log-odds, so the order stays.
    return VerdictScore(score.log_odds / temperature, 0.0).p_normal


def turn_score(turn: Turn, readout: str) -> VerdictScore | None:
    """The scored verdict a readout goes by: after the reasoning for ``paper``, before it for the others."""
    return turn.score if readout == "paper" else turn.direct_score


def turn_value(turn: Turn, readout: str, temperature: float = 4.0) -> float | None:
    """:func:`reward_value` of a turn under a readout; None if the turn was not scored for it."""
    score = turn_score(turn, readout)
    return None if score is None else reward_value(score, readout, temperature)
