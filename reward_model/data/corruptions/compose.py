"""One video in, one video with exactly annotated anomalies out: the choice of kind, region and window."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Protocol

import numpy as np

from reward_model.data.corruptions import duplicate, gravity, patch_time, text, warp
from reward_model.data.corruptions.base import About, CorruptionError
from reward_model.data.corruptions.durations import MIN_FRAMES, draw_both, num_frames
from reward_model.data.corruptions.footage import Footage
from reward_model.data.corruptions.own_motion import check_own_motion
from reward_model.data.corruptions.region import find_region, given_region
from reward_model.data.corruptions.track import Track
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, VideoAnnotation


class Operator(Protocol):
    """Edits a copy of the track's video in a window; pure in the video, the track, the window and the generator."""

    def __call__(
        self, track: Track, window: FrameRange, rng: np.random.Generator, about: About, /
    ) -> tuple[np.ndarray, Anomaly]: ...


#: Anomalies that can be put into a video, and the type each is annotated as (paper, section B.1.2). If the caller says
#: that people move in the video, the deformations and the duplicate are Human Distortion.
KINDS: Mapping[str, AnomalyType] = MappingProxyType(
    {
        "bulge": AnomalyType.OBJECT,
        "swirl": AnomalyType.OBJECT,
        "melt": AnomalyType.OBJECT,
        "duplicate": AnomalyType.OBJECT,
        "vanish": AnomalyType.MOTION,
        "freeze": AnomalyType.MOTION,
        "stutter": AnomalyType.MOTION,
        "flicker": AnomalyType.MOTION,
        "teleport": AnomalyType.MOTION,
        "hover": AnomalyType.PHYSICAL,
        "scramble": AnomalyType.CHARACTER,
        "mirror": AnomalyType.CHARACTER,
    }
)
OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {
        "bulge": warp.bulge,
        "swirl": warp.swirl,
        "melt": warp.melt,
        "duplicate": duplicate.duplicate,
        "vanish": patch_time.vanish,
        "freeze": patch_time.freeze,
        "stutter": patch_time.stutter,
        "flicker": patch_time.flicker,
        "teleport": patch_time.teleport,
        "hover": gravity.hover,
        "scramble": text.scramble,
        "mirror": text.mirror,
    }
)
#: Kinds that deform a thing; on people they are Human Distortion.
ON_BODIES = frozenset({"bulge", "swirl", "melt", "duplicate"})
#: Kinds that show only on something that moves by itself.
NEED_MOTION = frozenset({"vanish", "freeze", "stutter", "teleport", "hover", "duplicate"})
#: Regions and windows that are tried before a kind is given up.
TRIES = 3
ON_TEXT = frozenset({"scramble", "mirror"})
#: Kinds that make no sense on what only seems to move in their window; the others may choose a still moment.
MOVE_IN_WINDOW = frozenset({"hover", "duplicate"})

Region = Box | tuple[int, Box]


def corrupt(
    frames: np.ndarray,
    fps: float,
    *,
    kind: str | AnomalyType | None = None,
    seed: int,
    num_anomalies: int = 1,
    region: Region | None = None,
    duration_s: float | None = None,
    style_noise: bool = True,
    people: bool = False,
    name: str = "object",
    video_id: str = "corrupted",
    footage: Footage | None = None,
) -> tuple[np.ndarray, VideoAnnotation]:
    """A copy of a video with anomalies in it, and their annotation.

    Outside the annotated frames the result is bit-identical to the input. Inside, only pixels within the boxes differ
    (for ``vanish``: within the region the thing would fill; its boxes are on the frames around its absence).

    Args:
        frames: (T, H, W, 3) uint8, not changed.
        fps: frames per second.
        kind: one of :data:`KINDS`, an :class:`AnomalyType` for any kind of that type, or None for any kind that fits.
        seed: the result is a function of the video, the options and the seed.
        num_anomalies: how many, one after another in separate parts of the video.
        region: where: a box on frame 0, or ``(frame, box)``; by default something that moves, else something textured.
        duration_s: how long each lasts; by default drawn from 0.4 to 1.6 s, below a second as often as above.
        style_noise: give resampled pixels the grain of their surroundings.
        people: what moves in this footage are people: deformations of it are annotated as Human Distortion.
        name: what the affected thing is called in the annotation.
        video_id: the id in the annotation.
        footage: the prepared video, to share the analysis between calls.

    Raises:
        CorruptionError: if the video is unfit; the message says why and what to try.
    """
    footage = footage or Footage(frames, fps)
    kinds = candidates(kind, people)
    if num_anomalies < 1:
        raise CorruptionError(f"num_anomalies={num_anomalies} must be at least 1")
    out, anomalies = footage.frames, []
    for number, span in enumerate(_spans(footage, num_anomalies)):
        rng = np.random.default_rng([seed, number])
        edited, anomaly = _one(footage, kinds, span, rng, region, duration_s, About(name, people, style_noise))
        if number:
            window = [n for n in range(len(out)) if n in anomaly.frames]
            out[window] = edited[window]
        else:
            out = edited
        anomalies.append(anomaly)
    height, width = out.shape[1:3]
    truth = VideoAnnotation(
        video_id, len(out), footage.fps, width, height, anomalies=tuple(anomalies), source="corruptions"
    )
    return out, truth


def candidates(kind: str | AnomalyType | None, people: bool) -> list[str]:
    """The kinds that a kind, a type or None (any) stands for."""
    if isinstance(kind, AnomalyType):
        if kind is AnomalyType.HUMAN and not people:
            raise CorruptionError("Human Distortion needs footage of people; pass people=True if it shows people")
        return [k for k, t in KINDS.items() if t is kind or (kind is AnomalyType.HUMAN and k in ON_BODIES)]
    if kind is None:
        return list(KINDS)
    if kind not in KINDS:
        raise CorruptionError(f"unknown kind {kind!r}; expected one of {', '.join(KINDS)}, or an AnomalyType")
    return [kind]


def _spans(footage: Footage, count: int) -> list[FrameRange]:
    """Equal parts of the video, one frame kept free at each end of each."""
    edges = np.linspace(0, len(footage.frames), count + 1).astype(int)
    shortest = int(np.diff(edges).min())
    if shortest < MIN_FRAMES + 4:
        raise CorruptionError(
            f"the video is too short: {len(footage.frames)} frames leave {shortest} for each of {count} anomalies, "
            f"{MIN_FRAMES + 4} needed. Use a longer video or fewer anomalies"
        )
    return [FrameRange(int(a) + 1, int(b) - 2) for a, b in pairwise(edges)]


def _one(
    footage: Footage,
    kinds: list[str],
    span: FrameRange,
    rng: np.random.Generator,
    region: Region | None,
    duration_s: float | None,
    about: About,
) -> tuple[np.ndarray, Anomaly]:
    """The first of the kinds, in a drawn order, that the video is fit for: at one duration for all of them, and only
    where none fits it at another.
    """
    order = [str(kind) for kind in rng.permutation(kinds)]
    reasons: list[str] = []
    for seconds in draw_both(rng, footage.fps) if duration_s is None else (duration_s,):
        reasons.clear()
        for kind in order:
            failed = ""
            for _ in range(TRIES):
                try:
                    track = _track(footage, kind, span, rng, region)
                    window = _window(track, kind, span, rng, seconds)
                    if kind in MOVE_IN_WINDOW and region is None:
                        check_own_motion(track, window)
                    return OPERATORS[kind](track, window, rng, about)
                except CorruptionError as error:
                    failed = f"{kind}: {error}"
            reasons.append(failed)
    raise CorruptionError("the video is unfit. " + "; ".join(reasons))


def _track(footage: Footage, kind: str, span: FrameRange, rng: np.random.Generator, region: Region | None) -> Track:
    if region is not None:
        return given_region(footage, region)
    if kind in ON_TEXT:
        return text.find_text(footage, span)
    return find_region(footage, rng, span=span, need_motion=kind in NEED_MOTION)


def _window(track: Track, kind: str, span: FrameRange, rng: np.random.Generator, seconds: float) -> FrameRange:
    length = num_frames(seconds, track.footage.fps)
    trusted = track.trusted()
    low, high = max(span.start, trusted.start), min(span.end, trusted.end)
    if high - low + 1 < MIN_FRAMES:
        raise CorruptionError(
            "the region is lost by the tracker after a few frames: it turns away, is covered or blurs. "
            "Name another region or use another seed"
        )
    length = min(length, high - low + 1)
    chooser: dict[str, Callable[[Track, FrameRange, int], FrameRange]] = {"hover": gravity.fall_window}
    if kind in chooser:
        return chooser[kind](track, FrameRange(low, high), length)
    # Around the anchor, where the region was seen to move.
    first = int(np.clip(track.anchor - rng.integers(length), low, high - length + 1))
    return FrameRange(first, first + length - 1)
