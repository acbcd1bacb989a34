"""Coordinates of a teacher's reasoning replaced by the annotated ones; every other character stays.

A strong model writes sensible words and poor boxes. So the time region and the boxes of each anomaly, and what stands
between ``<t>`` and ``</t>`` (seconds of the clip) or ``<box>`` and ``</box>`` in the reasoning, are overwritten by the
truth. A trace whose tube misses the annotated one is dropped: it is about something else, and its words would lie.

That generated coordinates are replaced by annotated ones is published (arXiv 2606.29023, abstract). The threshold, the
tags and the jitter (a judge will go by its own, imperfect coordinates) are ours.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from reward_model.answer_object import ANOMALIES, BBOX, COT, REGION_T, STATUS, BadAnswerError, find_object
from reward_model.data.cot import CotSample
from reward_model.data.targets import drawn_throughout, targets_of
from reward_model.digests import text_digest
from reward_model.grounding import join_boxes, tube_overlap
from reward_model.parsing import ParseError, written_items
from reward_model.schema import BOX_SCALE, Anomaly, Box, VideoAnnotation
from reward_model.tracks.codec import PerFrame, TurnTwoCodec
from reward_model.tracks.ticks import frame_times, nearest_frame, written_time

log = logging.getLogger(__name__)

#: Least overlap (vIoU) of a teacher's tube with the annotated one; below, the trace is dropped.
LEAST_OVERLAP = 0.3

_SPACE = re.compile(r"\s*+")
_TAGGED = re.compile(r"(<t>\s*+)(\d{1,5}(?:\.\d{1,3})?)(\s*+(?:s\s*+)?</t>)|(<box>)[^<]{1,80}+(</box>)")
_DECODER = json.JSONDecoder(strict=False)


class WrongTargetError(ValueError):
    """The trace is about something else than the annotation, or cannot be read."""


@dataclass(frozen=True)
class Replaced:
    """Samples after the replacement, and the ids of the videos whose trace was dropped, with the reason."""

    samples: list[CotSample]
    dropped: dict[str, str]


def replace_samples(
    samples: Sequence[CotSample],
    truths: Mapping[str, VideoAnnotation],
    *,
    jitter: float = 0.0,
    codec: TurnTwoCodec | None = None,
    throughout: bool = False,
    seed: int = 0,
) -> Replaced:
    """All samples, those of abnormal clips with annotated coordinates; those of turn one and of videos that ``truths``
    lacks are left alone.

    Args:
        truths: annotations by the id of their video.
        jitter: standard deviation of a shift of each side of each box, on the 0-1000 grid.
        codec: how the answers write boxes; None: frame by frame.
        throughout: boxes on every frame of the clip, where the wording asks for them.
        seed: seed of the jitter; each video has its own.
    """
    kept: list[CotSample] = []
    dropped: dict[str, str] = {}
    for sample in samples:
        truth = truths.get(sample.video_id)
        if sample.turn != "zoom" or truth is None or sample.status == "normal":
            kept.append(sample)
            continue
        rng = np.random.default_rng([seed, int(text_digest(sample.video_id)[:8], 16)])
        targets, times = targets_of(truth, "zoom", sample.indices), frame_times(sample.indices, truth.fps)
        if throughout:
            targets = tuple(drawn_throughout(a, len(times)) for a in targets)
        try:
            answer = replace_trace(sample.answer, targets, times, jitter=jitter, rng=rng, codec=codec)
        except WrongTargetError as error:
            dropped[sample.video_id] = str(error)
            continue
        kept.append(replace(sample, answer=answer))
    if dropped:
        first = next(iter(dropped.items()))
        log.warning("%d of %d traces dropped: wrong target; the first is %s: %s", len(dropped), len(samples), *first)
    return Replaced(kept, dropped)


def replace_trace(
    answer: str,
    targets: Sequence[Anomaly],
    times: Sequence[float],
    *,
    jitter: float = 0.0,
    rng: np.random.Generator | None = None,
    codec: TurnTwoCodec | None = None,
) -> str:
    """The answer of a teacher about a clip with annotated coordinates.

    Args:
        targets: the annotated anomalies on the frames of the clip.
        times: seconds of the frames.
        jitter, rng: see :func:`replace_samples`; the same seed gives the same answer.

    Raises:
        WrongTargetError: if its anomalies are not those of the annotation, or it cannot be read as it is written.
    """
    codec = codec or PerFrame()
    try:
        found = find_object(answer)
        items = found.data.get(ANOMALIES)
        tubes = [_tube(item, times, codec) for item in items] if isinstance(items, list) else []
    except (BadAnswerError, ParseError) as error:
        raise WrongTargetError(str(error)) from None
    if found.text != answer:
        raise WrongTargetError("its JSON is broken")
    groups = written_items(targets)
    partners = _partners(tubes, groups)
    draw = rng or np.random.default_rng(0)
    groups = [[_shaken(a, jitter, draw) for a in group] for group in groups] if jitter else groups
    spans = _fields(answer, found.start)
    edits = []
    for place, partner in zip(_elements(answer, spans[ANOMALIES][0]), partners, strict=True):
        when, drawn = codec.place(groups[partner], times)
        item = _fields(answer, place[0])
        edits += [(item[REGION_T], json.dumps(when)), (item[BBOX], json.dumps(drawn))]
    if COT in spans:
        start, end = spans[COT]
        edits.append(((start, end), _retold(answer[start:end], [a for g in groups for a in g], times)))
    for (start, end), text in sorted(edits, reverse=True):
        answer = answer[:start] + text + answer[end:]
    return answer


def _tube(item: object, times: Sequence[float], codec: TurnTwoCodec) -> tuple[Anomaly, ...]:
    """Content of one listed anomaly."""
    alone = json.dumps({COT: "", STATUS: "abnormal", ANOMALIES: [item]})
    return codec.parse(alone, times).anomalies


def _partners(tubes: Sequence[Sequence[Anomaly]], groups: Sequence[Sequence[Anomaly]]) -> list[int]:
    """For each listed anomaly the annotated one it is about, under the pairing with the largest sum."""
    if len(tubes) != len(groups):
        raise WrongTargetError(f"it lists {len(tubes)} anomalies where {len(groups)} are annotated")
    overlaps = np.array([[_overlap(tube, group) for group in groups] for tube in tubes]).reshape(
        len(tubes), len(groups)
    )
    rows, columns = linear_sum_assignment(overlaps, maximize=True)
    least = min((overlaps[i, j] for i, j in zip(rows, columns, strict=True)), default=1.0)
    if least < LEAST_OVERLAP:
        raise WrongTargetError(f"its boxes overlap those of the annotation by {least:.2f}, less than {LEAST_OVERLAP}")
    return [int(j) for j in columns]


def _overlap(ours: Sequence[Anomaly], theirs: Sequence[Anomaly]) -> float:
    named, real = ({k for a in side for k in a.frames.frames()} for side in (ours, theirs))
    found = tube_overlap(join_boxes(ours), join_boxes(theirs), pred_frames=named, true_frames=real)
    return found.union


def _shaken(anomaly: Anomaly, jitter: float, rng: np.random.Generator) -> Anomaly:
    return replace(
        anomaly, boxes={k: tuple(_shaken_box(b, jitter, rng) for b in found) for k, found in anomaly.boxes.items()}
    )


def _shaken_box(box: Box, jitter: float, rng: np.random.Generator) -> Box:
    moved = np.clip(np.round(np.array(box.as_list()) + rng.normal(0, jitter, 4)), 0, BOX_SCALE).astype(int)
    (x0, x1), (y0, y1) = (sorted(moved[k::2].tolist()) for k in (0, 1))
    x0, y0 = min(x0, BOX_SCALE - 1), min(y0, BOX_SCALE - 1)
    return Box(x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))


def _retold(cot: str, anomalies: Sequence[Anomaly], times: Sequence[float]) -> str:
    """The reasoning with tagged seconds moved into the nearest annotated time, and tagged boxes replaced by the
    annotated one at the last seconds tagged before.
    """
    boxes = join_boxes(anomalies)
    named = sorted({k for a in anomalies for k in a.frames.frames()})
    at = named[len(named) // 2] if named else 0

    def told(match: re.Match[str]) -> str:
        nonlocal at
        if match[2] is None:
            if not boxes:
                return match[0]
            nearest = boxes[min(boxes, key=lambda k: (abs(times[k] - times[at]), k))]
            return match[4] + json.dumps(nearest[0].as_list()) + match[5]
        if not named:
            return match[0]
        frame = nearest_frame(float(match[2]), times)
        at = min(named, key=lambda k: (abs(k - frame), k))
        if at == frame:  # it names a time of the anomaly
            return match[0]
        return f"{match[1]}{written_time(times[at]):g}{match[3]}"

    return _TAGGED.sub(told, cot)


def _fields(text: str, start: int) -> dict[str, tuple[int, int]]:
    """Begin and end of the value of each key of the object that begins at ``start``."""
    found: dict[str, tuple[int, int]] = {}
    at = _after_space(text, start + 1)
    while text[at] != "}":
        key, at = _DECODER.raw_decode(text, at)
        at = _after_space(text, _after_space(text, at) + 1)  # the colon
        _, end = _DECODER.raw_decode(text, at)
        found[str(key)] = at, end
        at = _after_space(text, end)
        at = _after_space(text, at + 1) if text[at] == "," else at
    return found


def _elements(text: str, start: int) -> list[tuple[int, int]]:
    """Begin and end of each element of the list that begins at ``start``."""
    found = []
    at = _after_space(text, start + 1)
    while text[at] != "]":
        _, end = _DECODER.raw_decode(text, at)
        found.append((at, end))
        at = _after_space(text, end)
        at = _after_space(text, at + 1) if text[at] == "," else at
    return found


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
