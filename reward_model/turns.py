"""The two turns as questions: frames, words, reading of an answer, union of several clips' reports (3.4; C.1).

Pure functions of a checkpoint's settings: the judge and stage 3 both ask through them, so that a judge is trained on
the questions it will be asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from reward_model.config import JudgeConfig
from reward_model.conversation import Conversation
from reward_model.parsing import BBOX, ParseError, joined, parse_turn
from reward_model.prompts import Frames, PromptSet
from reward_model.schema import FrameRange, Status, TurnReport
from reward_model.video.sampling import native_window, sample_indices, thinned, zoom_indices

_LEGIBLE = re.compile(r'"status"\s?:\s?"\s?((?:ab)?normal)\s?"', re.IGNORECASE)


@dataclass(frozen=True)
class VideoView:
    """A video as the turns see it.

    Attributes:
        num_frames, fps: its native frames, and how many of them a second has.
        take: native indices -> (N, H, W, 3) uint8, as they are shown; may raise where they cannot be read.
        prompt: the text it was made from.
    """

    num_frames: int
    fps: float
    take: Callable[[Sequence[int]], Frames]
    prompt: str = ""


@dataclass(frozen=True, eq=False)
class TurnRequest:
    """One question: turn one (the scan) or turn two (a zoom), the native frames it shows, and the messages."""

    number: int
    indices: tuple[int, ...]
    conversation: Conversation


@dataclass(frozen=True)
class Reading:
    """An answer as it counts.

    Attributes:
        report: what it says; None if it is invalid.
        status: that of the report, or one that is legible all the same (``lenient_invalid``).
        error: why there is no report.
    """

    report: TurnReport | None = None
    status: Status | None = None
    error: ParseError | None = None


def scan_request(view: VideoView, config: JudgeConfig, wording: PromptSet) -> TurnRequest:
    """Turn one: the whole video on the grid of ``scan_fps``, thinned to ``max_scan_frames``."""
    grid = sample_indices(view.num_frames, view.fps, config.scan_fps)
    indices = tuple(thinned(grid, config.max_scan_frames))
    return TurnRequest(1, indices, wording.scan(view.take(indices), view.prompt))


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
    frames = view.take(clip)
    if config.context == "chat":
        return TurnRequest(2, clip, wording.zoom_continued(scan.conversation, answer, frames, view.prompt))
    return TurnRequest(2, clip, wording.zoom(frames, view.prompt, cot=passed_reasoning(report, config)))


def passed_reasoning(report: TurnReport, config: JudgeConfig) -> str:
    """Turn one's reasoning as a new chat of turn two shows it; videos of one clip and one such text get one and the
    same question.
    """
    return report.cot if config.context == "fresh" else ""


def read_answer(text: str, turn: int, num_frames: int, config: JudgeConfig) -> TurnReport:
    """The report of an answer, as strict as the judge is set.

    Raises:
        ParseError: if it does not follow the schema; or, with ``require_all_frames``, an anomaly of turn two has no box
            on some frame of the clip (the prompt of Fig. S5 asks for one on each).
    """
    report = parse_turn(text, turn=turn, num_frames=num_frames)
    if turn == 2 and config.require_all_frames:
        for anomaly in report.anomalies:
            bare = sorted({*range(num_frames)} - set(anomaly.boxes))
            if bare:
                raise ParseError(f"{BBOX} has no box on frame {bare[0]} of the clip (0-{num_frames - 1})", text)
    return report


def read_turn(text: str, turn: int, num_frames: int, config: JudgeConfig) -> Reading:
    """:func:`read_answer`, and what is left of an answer that cannot be read."""
    try:
        report = read_answer(text, turn, num_frames, config)
    except ParseError as error:
        return Reading(status=legible_status(text, config), error=error)
    return Reading(report, report.status)


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
