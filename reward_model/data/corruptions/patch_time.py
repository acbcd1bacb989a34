"""Motion Anomalies: the region vanishes, freezes, flickers, stutters, or stands somewhere else for a moment.

All of them show pixels of the same video at another time or place, seen through the camera of the frame they are put
into; the cut is soft and the colours meet at the rim.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from reward_model.data.corruptions.base import About, CorruptionError, Edit, Rect, annotate, clip_rect, settle
from reward_model.data.corruptions.blend import FEATHER, blend_edit, rim_error, soft_mask
from reward_model.data.corruptions.camera import warp_grey
from reward_model.data.corruptions.plate import GROWS, USABLE_RIM, Plate, make_plate
from reward_model.data.corruptions.track import Track
from reward_model.schema import Anomaly, AnomalyType, FrameRange

Result = tuple[np.ndarray, Anomaly]
#: A region that sweeps over more than this share of the picture is the picture.
MAX_SHARE = 0.6
#: What is held or shifted in time must look different by this many levels on this share of the region, in the quarter
#: of the frames that show it best and seen from afar: shimmering detail is not motion.
TIME_CHANGE, MIN_TIME_SHARE = 16.0, 0.2
#: Levels by which a pixel must differ from what is behind it to belong to the thing that is removed.
OBJECT_CHANGE = 14


def vanish(track: Track, window: FrameRange, rng: np.random.Generator, about: About) -> Result:
    """Removes the thing for the window; its boxes are on the last frame before and the first after (section B.1.3)."""
    plate, grow = make_plate(track, window)
    frames = track.footage.frames
    out, _ = settle(frames, [_erase(track, plate, grow, k, rng, about.grain) for k in window.frames()])
    edges = [k for k in (window.start - 1, window.end + 1) if 0 <= k < len(frames)]
    if not edges:
        raise CorruptionError("the thing would be gone from the first frame to the last; use a shorter duration_s")
    # What would change if it vanished there too is where it is: a threshold well above noise keeps the box tight.
    seen = {k: _outline(_erase(track, plate, grow, k, rng, False, feather=0.02), frames) for k in edges}
    words = "vanishes from one frame to the next" + (" and reappears later" if len(edges) == 2 else "")
    return out, annotate(AnomalyType.MOTION, seen, frames.shape, name=about.name, words=words, window=window)


def freeze(track: Track, window: FrameRange, rng: np.random.Generator, about: About) -> Result:
    """The thing stops dead while all else moves on, then is suddenly where it ought to be."""
    held = [max(window.start - 1, 0)] * len(window)
    out, rects = settle(track.footage.frames, replay(track, window, held, rng, about.grain))
    words = "freezes while everything around it moves on, then jumps ahead"
    return out, annotate(AnomalyType.MOTION, rects, out.shape, name=about.name, words=words)


def stutter(track: Track, window: FrameRange, rng: np.random.Generator, about: About) -> Result:
    """The thing jerks back and forth in time: every few frames it is where it was, or will be, a moment away."""
    last, lag = len(track.footage.frames) - 1, max(2, round(0.25 * track.footage.fps))
    hold = max(2, round(0.08 * track.footage.fps))
    signs = [(-1) ** (k // hold) for k in range(len(window))]
    sources = [int(np.clip(n + s * lag, 0, last)) for n, s in zip(window.frames(), signs, strict=True)]
    out, rects = settle(track.footage.frames, replay(track, window, sources, rng, about.grain))
    return out, annotate(AnomalyType.MOTION, rects, out.shape, name=about.name, words="jitters back and forth abruptly")


def flicker(track: Track, window: FrameRange, rng: np.random.Generator, about: About) -> Result:
    """Makes the thing flash: brighter and darker, alternating every two or three frames."""
    frames, edits = track.footage.frames, []
    hold = max(1, round(0.08 * track.footage.fps))
    gains = [float(rng.uniform(1.5, 1.8) if (k // hold) % 2 else rng.uniform(0.3, 0.5)) for k in range(len(window))]
    for index, gain in zip(window.frames(), gains, strict=True):
        rect = track.rect(index, 1.1)
        mask = soft_mask(rect, track.centre[index], 1.1 * track.size, 0.6)
        content = frames[index][rect.slices].astype(np.float32) * gain
        edits.append(blend_edit(frames, index, rect, content, mask, rng, level=False, grain=False))
    out, rects = settle(frames, edits)
    return out, annotate(
        AnomalyType.MOTION, rects, out.shape, name=about.name, words="flickers between dark and bright"
    )


def teleport(track: Track, window: FrameRange, rng: np.random.Generator, about: About) -> Result:
    """The thing is suddenly somewhere else, its own place empty, and then back."""
    (plate, grow), frames = make_plate(track, window), track.footage.frames
    shift = _free_shift(track, window, rng)
    edits = []
    for index in window.frames():
        erased = _erase(track, plate, grow, index, rng, about.grain)
        canvas = frames[index].copy()
        canvas[erased.rect.slices] = erased.pixels
        size, centre = grow * track.size, track.centre[index] + shift
        rect = _rect(centre, size, frames.shape)
        rows = np.clip(np.arange(rect.top, rect.bottom) - shift[1], 0, frames.shape[1] - 1)
        columns = np.clip(np.arange(rect.left, rect.right) - shift[0], 0, frames.shape[2] - 1)
        content = frames[index][rows[:, None], columns[None]].astype(np.float32)
        placed = blend_edit(canvas[None], 0, rect, content, soft_mask(rect, centre, size), rng, grain=False)
        canvas[rect.slices] = placed.pixels
        both = Rect(*np.minimum(rect[:2], erased.rect[:2]), *np.maximum(rect[2:], erased.rect[2:]))
        edits.append(Edit(index, both, canvas[both.slices]))
    out, rects = settle(frames, edits)
    words = "suddenly jumps to another place and back"
    return out, annotate(AnomalyType.MOTION, rects, frames.shape, name=about.name, words=words)


def replay(
    track: Track, window: FrameRange, sources: Sequence[int], rng: np.random.Generator, grain: bool
) -> list[Edit]:
    """Edits that show in each frame of the window the region as it is in another frame.

    The replaced rectangle covers the region both where it is and where it was, so that nothing is doubled, and is as
    much larger as its rim needs to lie on the background.

    Raises:
        CorruptionError: the region looks the same in those frames, the rectangle would cover most of the picture, or
            its rim cuts through things that move.
    """
    footage, edits = track.footage, []
    pairs = [(n, s) for n, s in zip(window.frames(), sources, strict=True) if n != s]
    _check_difference(track, pairs)
    grow = _best_grow(track, pairs)
    for index, source in pairs:
        rect, mask = _swept(track, index, source, grow)
        content = footage.view(source, index, rect)
        edits.append(blend_edit(footage.frames, index, rect, content, mask, rng, grain=grain))
    return edits


def _check_difference(track: Track, pairs: Sequence[tuple[int, int]]) -> None:
    samples = [pairs[round(float(k))] for k in np.linspace(0, len(pairs) - 1, min(8, len(pairs)))]
    share = float(np.percentile([_different_share(track, index, source) for index, source in samples], 75))
    if share < MIN_TIME_SHARE:
        raise CorruptionError(
            f"the region looks much the same at another time of the window ({share:.0%} of it differs, "
            f"{MIN_TIME_SHARE:.0%} needed): nobody would see it held or shifted. Use a longer duration_s, footage with "
            "more motion, or another kind"
        )


def _different_share(track: Track, index: int, source: int) -> float:
    """Share of the region of a frame that visibly differs from what the source shows in its place."""
    footage = track.footage
    (sx, sy), rect, small = footage.scale, track.rect(index), footage.small
    part = clip_rect(rect.left * sx, rect.top * sy, rect.right * sx, rect.bottom * sy, (0, *small.shape[1:], 1))
    change = warp_grey(small[source], footage.camera(index, source)) - small[index]
    afar = ndimage.gaussian_filter(change, max(0.5, max(small.shape[1:]) / 128))
    return float((np.abs(afar[part.slices]) >= TIME_CHANGE).mean())


def _best_grow(track: Track, pairs: Sequence[tuple[int, int]]) -> float:
    """The enlargement whose rim meets the frames best, on a few of the (frame, source) pairs."""
    footage, errors = track.footage, []
    samples = [pairs[round(float(k))] for k in np.linspace(0, len(pairs) - 1, min(4, len(pairs)))]
    for grow in GROWS:
        found = []
        for index, source in samples:
            rect, mask = _swept(track, index, source, grow)
            if rect.width * rect.height > MAX_SHARE * np.prod(footage.frames.shape[1:3]):
                found.append(np.inf)
                break
            old = footage.frames[index][rect.slices].astype(np.float32)
            found.append(rim_error(old, footage.view(source, index, rect), mask))
        errors.append(float(np.mean(found)))
    best = int(np.argmin(np.array(errors) * np.array([1.0, 1.1, 1.25])))
    if errors[best] > USABLE_RIM:
        raise CorruptionError(
            "the region cannot be shown at another time without cutting through other moving things, or it sweeps over "
            "most of the picture; use a shorter duration_s, another region, or footage with a calmer background"
        )
    return GROWS[best]


def _swept(track: Track, index: int, source: int, grow: float) -> tuple[Rect, np.ndarray]:
    """The rectangle of the region where it is in a frame and where it was in the source, and its mask."""
    there = (track.footage.full_camera(source, index) @ [*track.centre[source], 1.0])[:2]
    low = np.minimum(track.centre[index], there) - grow * track.size / 2
    high = np.maximum(track.centre[index], there) + grow * track.size / 2
    rect = clip_rect(low[0], low[1], high[0], high[1], track.footage.frames.shape)
    return rect, soft_mask(rect, (low + high) / 2, high - low)


def _erase(
    track: Track,
    plate: Plate,
    grow: float,
    index: int,
    rng: np.random.Generator,
    grain: bool,
    feather: float = FEATHER,
) -> Edit:
    rect, frames = track.rect(index, grow), track.footage.frames
    mask = soft_mask(rect, track.centre[index], grow * track.size, feather)
    return blend_edit(frames, index, rect, plate.read(index, rect), mask, rng, grain=grain)


def _outline(edit: Edit, frames: np.ndarray) -> tuple[Rect, ...]:
    """The tight rectangle of a thing, from what removing it would change."""
    change = np.abs(edit.pixels.astype(np.int16) - frames[edit.frame][edit.rect.slices]).max(-1)
    solid = ndimage.median_filter(change, 3) >= max(OBJECT_CHANGE, 0.3 * float(np.percentile(change, 98)))
    labels, count = ndimage.label(ndimage.binary_dilation(solid, iterations=2))
    sizes = np.bincount(labels.ravel(), solid.ravel(), minlength=count + 1)
    kept = solid & np.isin(labels, np.flatnonzero(sizes > 0.1 * sizes.sum()))
    rows, columns = np.flatnonzero(kept.any(1)), np.flatnonzero(kept.any(0))
    if not len(rows):
        return (edit.rect,)
    x, y = edit.rect.left, edit.rect.top
    return (Rect(int(columns[0]) + x, int(rows[0]) + y, int(columns[-1]) + 1 + x, int(rows[-1]) + 1 + y),)


def _free_shift(track: Track, window: FrameRange, rng: np.random.Generator) -> np.ndarray:
    """A shift (x, y) in whole pixels that keeps the region in the picture and clear of itself for the whole window."""
    height, width = track.footage.frames.shape[1:3]
    centres, half = track.centre[window.start : window.end + 1], track.size / 2
    options = []
    for reach in (1.15, 1.5, 2.0):
        for x, y in ((reach, 0), (-reach, 0), (reach, -0.25), (-reach, -0.25), (0, reach), (0, -reach)):
            shift = np.round(np.array([x, y]) * track.size)
            moved = centres + shift
            if (moved > 0.8 * half).all() and (moved < [width, height] - 0.8 * half).all():
                options.append(shift.astype(int))
    if not options:
        raise CorruptionError("there is no room beside the region to put it; use a smaller region or another kind")
    return options[int(rng.integers(min(len(options), 4)))]


def _rect(centre: np.ndarray, size: np.ndarray, shape: tuple[int, ...]) -> Rect:
    low, high = centre - size / 2, centre + size / 2
    return clip_rect(low[0], low[1], high[0], high[1], shape)
