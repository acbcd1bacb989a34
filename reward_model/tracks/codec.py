"""The boxes of turn two: how they are asked for, written and read. Everything after it sees boxes frame by frame.

:class:`PerFrame` is the paper's schema, a box on each frame. :class:`Ticks` asks for the same object with boxes every
``delta`` seconds (after arXiv 2606.29023, of which the abstract alone is public: format and numbers here are ours):

    {"COT": ..., "status": "abnormal", "anomalies": [{"Attributed Time Region": "0.38-1.63 s", ...,
     "BBOX": {"0.5": [...], "1": [...], "1.5": [...]}}]}

What is read becomes a :class:`~reward_model.schema.TurnReport` with ordinary boxes: ticks are smoothed
(:mod:`reward_model.tracks.smoothing`) and interpolated. So verdicts, rewards, reports and benches know one kind of box.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Protocol

from reward_model.answer_object import BadAnswerError
from reward_model.conversation import Conversation, Message
from reward_model.digests import text_digest
from reward_model.parsing import (
    BBOX,
    REGION_T,
    ParseError,
    Placed,
    format_report,
    frame_by_frame,
    one_or_list,
    parse_answer,
    parse_turn,
    read_boxes,
    read_words,
)
from reward_model.prompts import fill, read_texts
from reward_model.schema import Anomaly, Box, FrameRange, TurnReport
from reward_model.tracks.smoothing import breaks, smooth_track
from reward_model.tracks.ticks import (
    TOLERANCE,
    at_ticks,
    expand_ticks,
    nearest_frame,
    things,
    tick_frames,
    ticks_within,
    written_time,
)

#: Seconds between two ticks by the names of ``track`` in ``judge.json``.
STEPS: Mapping[str, float] = {"1s": 1.0, "0.5s": 0.5, "0.25s": 0.25}
#: Optional key of a listed anomaly: ticks at which the thing is not where it came from.
CUTS = "Cuts"
#: Wordings whose judges know frames by their marks and have never read a number of seconds.
_FRAME_MARKS = ("compact",)

_SECONDS = r"(\d{1,5}(?:\.\d{1,3})?)(?:\s*+(?:s|sec|seconds))?"
_SPAN = re.compile(rf"{_SECONDS}(?:\s*+(?:-|to)\s*+{_SECONDS})?", re.IGNORECASE)
_TIME = re.compile(_SECONDS, re.IGNORECASE)
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"), "-")
#: Spans of one anomaly that are read.
_MOST_SPANS = 1000


class TurnTwoCodec(Protocol):
    """A way of asking for, writing and reading the boxes of turn two. ``times`` are seconds of the clip's frames
    (:func:`~reward_model.tracks.ticks.frame_times`).
    """

    @property
    def version(self) -> str | None:
        """Name of the codec and of its words, for provenance; None for the paper's schema."""
        ...

    def prompt_suffix(self, times: Sequence[float]) -> str:
        """Words that follow the question of turn two about frames at these times."""
        ...

    def write(self, report: TurnReport, times: Sequence[float]) -> str:
        """The canonical answer of a report with boxes frame by frame: what training teaches."""
        ...

    def place(self, parts: Sequence[Anomaly], times: Sequence[float]) -> Placed:
        """Time region and boxes of one listed anomaly, as they are written."""
        ...

    def parse(self, text: str, times: Sequence[float], *, complete: bool = False) -> TurnReport:
        """The report of an answer, boxes frame by frame.

        Args:
            complete: refuse an anomaly that lacks a box it was asked for.

        Raises:
            ParseError: if the answer breaks the schema.
        """
        ...


@dataclass(frozen=True)
class PerFrame:
    """A box on every frame of the clip, as in Fig. S5."""

    @property
    def version(self) -> None:
        return None

    def prompt_suffix(self, times: Sequence[float]) -> str:
        return ""

    def write(self, report: TurnReport, times: Sequence[float]) -> str:
        return format_report(report)

    def place(self, parts: Sequence[Anomaly], times: Sequence[float]) -> Placed:
        return frame_by_frame(parts)

    def parse(self, text: str, times: Sequence[float], *, complete: bool = False) -> TurnReport:
        report = parse_turn(text, turn=2, num_frames=len(times))
        for anomaly in report.anomalies if complete else ():
            bare = sorted({*range(len(times))} - set(anomaly.boxes))
            if bare:
                raise ParseError(f"{BBOX} has no box on frame {bare[0]} of the clip (0-{len(times) - 1})", text)
        return report


@dataclass(frozen=True)
class Ticks:
    """A box every ``step`` seconds of an anomaly.

    Args:
        step: seconds between ticks, counted from the clip's first frame.
        wording: name of the judge's wording. One whose judges know frames by their marks names the frame nearest to a
            tick ("Frame 4") in place of the seconds. It asks for boxes where something is seen, so that a tick without
            one means that nothing is; the other asks for one at every tick, and fills in what is missing.
        smoother: name of :data:`~reward_model.tracks.smoothing.SMOOTHERS`, applied to what is read.

    Example:
        >>> report = Ticks(0.5).parse(
        ...     '{"COT": "", "status": "abnormal", "anomalies": [{"Attributed Time Region": "0-1 s", '
        ...     '"Attributed Label": "Object Distortion", "BBOX": {"0": [450, 450, 550, 550], "0.5": [500, 300, 900, '
        ...     '700], "1": [500, 300, 900, 700]}}]}', [0.0, 0.25, 0.5, 0.75, 1.0])
        >>> report.anomalies[0].boxes[1][0].as_list()
        [500, 400, 700, 600]
    """

    step: float
    wording: str = "paper"
    smoother: str = "whittaker"

    @property
    def by_marks(self) -> bool:
        """True if ticks are named by the frames at them."""
        return self.wording in _FRAME_MARKS

    @property
    def version(self) -> str:
        return f"ticks {self.step:g} s, {self.smoother}+{text_digest(_texts()[self.wording])[:8]}"

    def prompt_suffix(self, times: Sequence[float]) -> str:
        values = {"step": _time_key(self.step), "last_frame": str(len(times) - 1), "last_s": _time_key(times[-1])}
        return fill(_texts()[self.wording], values)

    # --- writing ------------------------------------------------------------------------------------------------------

    def write(self, report: TurnReport, times: Sequence[float]) -> str:
        return format_report(report, place=partial(self.place, times=times))

    def _thinned(self, anomaly: Anomaly, times: Sequence[float]) -> Anomaly:
        """The anomaly with its boxes at the frames nearest to ticks."""
        kept = tick_frames(anomaly.frames, times, self.step)
        found = self._drawn([anomaly], {times[k]: k for k in kept}, times)
        return replace(anomaly, boxes=dict(sorted(found.items())))

    def place(self, parts: Sequence[Anomaly], times: Sequence[float]) -> Placed:
        if self.by_marks:
            return frame_by_frame([self._thinned(a, times) for a in parts])
        spans = [(written_time(times[a.frames.start]), written_time(times[a.frames.end])) for a in parts]
        keys = {t: _time_key(t) for start, end in spans for t in ticks_within(start, end, self.step)}
        drawn = self._drawn(parts, keys, times)
        region = ", ".join(f"{_time_key(start)}-{_time_key(end)}" for start, end in spans) + " s"
        return region, {key: one_or_list(drawn[key]) for key in keys.values() if key in drawn}

    def _drawn(
        self, parts: Sequence[Anomaly], keys: Mapping[float, Any], times: Sequence[float]
    ) -> dict[Any, tuple[Box, ...]]:
        """Boxes of all things at the ticks, by the tick's key; where none has one there, that of the nearest frame at
        the tick nearest to it.
        """
        boxes = {k: v for a in parts for k, v in sorted(a.boxes.items()) if v}
        found: dict[Any, tuple[Box, ...]] = {}
        for track in things(boxes):
            for tick, box in at_ticks(track, times, list(keys), self.step, between=not self.by_marks).items():
                found[keys[tick]] = (*found.get(keys[tick], ()), box)
        if not found and boxes:
            _, tick, frame = min((abs(times[k] - t), t, k) for k in boxes for t in keys)
            found[keys[tick]] = boxes[frame]
        return found

    # --- reading ------------------------------------------------------------------------------------------------------

    def parse(self, text: str, times: Sequence[float], *, complete: bool = False) -> TurnReport:
        read = partial(self._anomalies, times=times, complete=complete)
        if not self.by_marks:
            return parse_answer(text, read)
        report = parse_turn(text, turn=2, num_frames=len(times))
        try:
            anomalies = tuple(self._from_marks(a, times, complete) for a in report.anomalies)
        except BadAnswerError as error:
            raise ParseError(str(error), text) from None
        return replace(report, anomalies=anomalies)

    def _from_marks(self, anomaly: Anomaly, times: Sequence[float], complete: bool) -> Anomaly:
        asked = tick_frames(anomaly.frames, times, self.step)
        for k in anomaly.boxes:
            if k not in asked:
                raise BadAnswerError(
                    f"{BBOX} names frame {k}, which is not a tick of {anomaly.frames}: every {self.step:g} s"
                )
        missing = [k for k in asked if k not in anomaly.boxes]
        if complete and missing:
            raise BadAnswerError(f"{BBOX} has no box on frame {missing[0]}, a tick of {anomaly.frames}")
        ticks = {times[k]: anomaly.boxes.get(k, ()) for k in asked}
        return replace(anomaly, boxes=to_frame_boxes(ticks, times, anomaly.frames, self.smoother, fill=False))

    def _anomalies(self, item: object, times: Sequence[float], complete: bool) -> list[Anomaly]:
        """One listed anomaly; several where its time region names several spans."""
        fields, kind, reason, region = read_words(item)
        spans = _spans(fields.get(REGION_T), times)
        asked = [ticks_within(start, end, self.step) for start, end in spans]
        boxes = _keyed(fields.get(BBOX))
        cuts = _cuts(fields.get(CUTS, []))
        found: list[dict[float, tuple[Box, ...]]] = [dict.fromkeys(ticks, ()) for ticks in asked]
        for seconds, given in boxes.items():
            home = next((k for k, ticks in enumerate(asked) for t in ticks if abs(t - seconds) <= TOLERANCE), None)
            if home is None:
                raise BadAnswerError(
                    f"{BBOX} key {_time_key(seconds)!r} is not a tick of {fields.get(REGION_T)!r}: "
                    f"every {self.step:g} s"
                )
            found[home][min(found[home], key=lambda t: abs(t - seconds))] = given
        missing = [t for ticks in found for t, given in ticks.items() if not given]
        if complete and missing:
            raise BadAnswerError(f"{BBOX} has no box at {_time_key(missing[0])} s, a tick of {fields.get(REGION_T)!r}")
        anomalies = []
        for (start, end), ticks in zip(spans, found, strict=True):
            frames = FrameRange(nearest_frame(start, times), nearest_frame(end, times))
            drawn = to_frame_boxes(ticks, times, frames, self.smoother, cuts)
            anomalies.append(Anomaly(kind, frames, drawn, reason=reason, region=region))
        return anomalies


def to_frame_boxes(
    ticks: Mapping[float, Sequence[Box]],
    times: Sequence[float],
    frames: FrameRange,
    smoother: str = "whittaker",
    cuts: Sequence[float] = (),
    *,
    fill: bool = True,
) -> dict[int, tuple[Box, ...]]:
    """Boxes on every frame of a range from those at ticks, each thing by itself; none outside the range, and none at
    all where no tick has one.

    Args:
        ticks: boxes by seconds, all ticks of the range in order, those without a box empty.
        cuts: seconds at which the model says that the thing jumps.
        fill: interpolate a thing's missing ticks; False: it has no box on frames nearest to such a tick.
    """
    seconds = list(ticks)
    flagged = [bisect_right(seconds, cut - TOLERANCE) for cut in cuts]  # past the last tick: of no effect
    found: dict[int, tuple[Box, ...]] = {}
    for thing in things({t: boxes for t, boxes in ticks.items() if boxes}):
        boxes = [thing.get(t) for t in seconds]
        track = smooth_track(boxes, smoother, flagged)
        for k, box in expand_ticks(seconds, track, breaks(boxes, flagged), times, frames).items():
            if fill or _near_one(times[k], seconds, boxes):
                found[k] = (*found.get(k, ()), box)
    return dict(sorted(found.items()))


def _near_one(time: float, seconds: Sequence[float], boxes: Sequence[Box | None]) -> bool:
    """True if no tick without a box is nearer than one with a box."""
    apart = [(abs(t - time), box is None) for t, box in zip(seconds, boxes, strict=True)]
    return not min(apart)[1]


def _spans(value: object, times: Sequence[float]) -> list[tuple[float, float]]:
    """Spans of a time region in seconds, in order; one that reaches past the clip is cut."""
    if not isinstance(value, str):
        raise BadAnswerError(f"{REGION_T} must be text such as '0.5-1.25 s', got {value!r}")
    pieces = re.split(r",|;|\band\b|&", value.translate(_DASHES).strip().rstrip("."))
    if len(pieces) > _MOST_SPANS:
        raise BadAnswerError(f"{REGION_T} names {len(pieces):,} spans, more than {_MOST_SPANS:,}")
    last, spans = times[-1], []
    for piece in pieces:
        match = _SPAN.fullmatch(piece.strip())
        if not match:
            raise BadAnswerError(f"{REGION_T} must be text such as '0.5-1.25 s', got {value!r}")
        start, end = float(match[1]), float(match[2] or match[1])
        if end < start or start > last + TOLERANCE:
            raise BadAnswerError(
                f"{REGION_T} {piece.strip()} is outside the clip of 0-{_time_key(last)} s, or reversed"
            )
        spans.append((start, min(end, max(last, start))))
    merged: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((start, end))
    return merged


def _keyed(value: object) -> dict[float, tuple[Box, ...]]:
    if not isinstance(value, dict) or not value:
        raise BadAnswerError(f'{BBOX} must map seconds to boxes, such as {{"0.5": [x0, y0, x1, y1]}}, got {value!r}')
    boxes: dict[float, tuple[Box, ...]] = {}
    for key, given in value.items():
        match = _TIME.fullmatch(key.strip())
        if not match:
            raise BadAnswerError(f"{BBOX} key {key!r} is not a time in seconds, such as '0.5'")
        if float(match[1]) in boxes:
            raise BadAnswerError(f"{BBOX} names {match[1]} s twice")
        boxes[float(match[1])] = read_boxes(given)
    return dict(sorted(boxes.items()))


def _cuts(value: object) -> list[float]:
    given: list[Any] = value if isinstance(value, list) else [value]
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v < 1e5 for v in given):
        raise BadAnswerError(f"{CUTS} must be a list of seconds, got {value!r}")
    return [float(v) for v in given]


def _time_key(seconds: float) -> str:
    """Seconds as an answer writes them.

    >>> _time_key(1.0), _time_key(0.125)
    ('1', '0.13')
    """
    return f"{written_time(seconds):.2f}".rstrip("0").rstrip(".")


@cache
def _texts() -> dict[str, str]:
    return read_texts("ticks")


class TrackSettings(Protocol):
    """The settings of a judge that its codec depends on (:class:`~reward_model.config.JudgeConfig`)."""

    @property
    def track(self) -> str: ...
    @property
    def prompts(self) -> str: ...
    @property
    def track_smoothing(self) -> str: ...


def codec_of(judge: TrackSettings) -> TurnTwoCodec:
    """Codec of a judge with these settings: how turn two is asked for boxes, and how they are read."""
    if judge.track == "per_frame":
        return PerFrame()
    return Ticks(STEPS[judge.track], judge.prompts, judge.track_smoothing)


def asked_for(codec: TurnTwoCodec, conversation: Conversation, times: Sequence[float]) -> Conversation:
    """The question of turn two with the codec's words at its end."""
    suffix = codec.prompt_suffix(times)
    if not suffix:
        return conversation
    *before, last = conversation
    return (*before, Message(last.role, (*last.content[:-1], f"{last.content[-1]}{suffix}")))
