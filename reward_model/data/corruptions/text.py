"""Character Anomalies: something written becomes unreadable, its strokes shuffled, or stands in mirror writing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from reward_model.data.corruptions.base import About, CorruptionError, annotate, clip_rect, settle
from reward_model.data.corruptions.blend import blend_edit, smooth_step
from reward_model.data.corruptions.footage import Footage
from reward_model.data.corruptions.patch_time import Result
from reward_model.data.corruptions.region import follow
from reward_model.data.corruptions.track import Track
from reward_model.schema import AnomalyType, FrameRange

#: Longer side of the copy in which writing is looked for: strokes must still be there.
SEARCH_SIDE = 640
#: Share of strong upright edges among the pixels of a line of writing, and the least edge strength in grey levels.
MIN_DENSITY, MIN_EDGE = 0.12, 22.0
#: What makes the area writing: its height in picture heights, the variance two tones explain, strokes across a row.
MAX_LINE_HEIGHT, MIN_TWO_TONES, MIN_STROKES = 0.15, 0.72, 3.0


def scramble(track: Track, window: FrameRange, rng: np.random.Generator, about: About) -> Result:
    """The writing is cut into pieces narrower than a letter, which are shuffled and turned over."""
    pieces = int(rng.integers(7, 11))
    order, turned = rng.permutation(pieces), rng.random(pieces) < 0.6
    while (order == np.arange(pieces)).mean() > 0.2:
        order = rng.permutation(pieces)

    def change(crop: np.ndarray) -> np.ndarray:
        out, edges = crop.copy(), np.linspace(0, crop.shape[1], pieces + 1).astype(int)
        for k, source in enumerate(order):
            low = min(int(edges[source]), crop.shape[1] - int(edges[k + 1] - edges[k]))
            strip = crop[:, low : low + edges[k + 1] - edges[k]]
            out[:, edges[k] : edges[k + 1]] = strip[::-1] if turned[k] else strip
        return out

    return _rewrite(track, window, rng, change, about.name, "turns into unreadable, jumbled strokes")


def mirror(track: Track, window: FrameRange, rng: np.random.Generator, about: About) -> Result:
    """The writing stands in mirror writing."""
    return _rewrite(track, window, rng, lambda crop: crop[:, ::-1], about.name, "is in mirror writing")


def _rewrite(
    track: Track,
    window: FrameRange,
    rng: np.random.Generator,
    change: Callable[[np.ndarray], np.ndarray],
    name: str,
    words: str,
) -> Result:
    frames, edits = track.footage.frames, []
    side = np.round(track.size).astype(int)
    for index in window.frames():
        left, top = np.round(track.centre[index] - side / 2)
        rect = clip_rect(left, top, left + side[0], top + side[1], frames.shape)
        content = change(frames[index][rect.slices]).astype(np.float32)
        x, y = (np.minimum(np.arange(n), np.arange(n)[::-1]) + 1.0 for n in (rect.width, rect.height))
        rim = max(2.0, 0.12 * rect.height)
        mask = smooth_step(np.minimum(x[None], y[:, None]) / rim)
        edits.append(blend_edit(frames, index, rect, content, mask, rng, grain=False))
    out, rects = settle(frames, edits)
    return out, annotate(AnomalyType.CHARACTER, rects, frames.shape, name=name, words=words)


def find_text(footage: Footage, span: FrameRange) -> Track:
    """The place that looks most like a line of writing in the middle of ``span``, followed through the video.

    Writing has many strong upright edges, dark-to-bright and bright-to-dark in equal number, in a low, wide area. This
    is a heuristic: fences and blinds look like it too. Name a region where you know better.

    Raises:
        CorruptionError: nothing looks like writing.
    """
    from PIL import Image

    height, width = footage.frames.shape[1:3]
    factor = min(1.0, SEARCH_SIDE / max(height, width))
    size = round(width * factor), round(height * factor)
    found, index = None, 0
    for index in sorted({round(float(v)) for v in np.linspace(span.start, span.end, 5)[1:-1]}):
        picture = Image.fromarray(footage.frames[index]).convert("L").resize(size, Image.Resampling.BOX)
        found = _best_line(np.asarray(picture, np.float32))
        if found is not None:
            break
    if found is None:
        raise CorruptionError(
            "nothing in this video looks like writing; name the region that holds text, or use another kind"
        )
    small = np.array(found).reshape(2, 2) / [size[0] / width, size[1] / height] * footage.scale
    track = follow(footage, index, tuple(small.ravel()), moving=False)
    exact = np.array(found).reshape(2, 2) / [size[0] / width, size[1] / height]
    # The small copy is coarser than letters: position and size are those found here, carried along by the track.
    offset = exact.mean(0) - track.centre[index]
    return Track(footage, track.centre + offset, exact[1] - exact[0], track.confidence, index, False)


def _best_line(grey: np.ndarray) -> tuple[float, float, float, float] | None:
    """The box ``(xmin, ymin, xmax, ymax)`` of the likeliest line of writing in a picture, or None."""
    edge = ndimage.sobel(ndimage.gaussian_filter(grey, 0.5), 1) / 4
    up, down = (edge > MIN_EDGE).astype(np.float32), (edge < -MIN_EDGE).astype(np.float32)
    side = max(5, round(0.03 * grey.shape[0]))
    window = (side, 3 * side)
    # Rising and falling edges in balance: strokes, not the border of something.
    density = 2 * np.minimum(ndimage.uniform_filter(up, window), ndimage.uniform_filter(down, window))
    for _ in range(6):
        y, x = (int(v) for v in np.unravel_index(int(density.argmax()), density.shape))
        if density[y, x] < MIN_DENSITY:
            return None
        labels, _ = ndimage.label(density > 0.45 * density[y, x])
        area = labels == labels[y, x]
        rows, columns = ndimage.find_objects(area.astype(int))[0]
        box = _tighten((up + down)[rows, columns] > 0, rows.start, columns.start, grey.shape)
        if box is not None and _is_writing(grey[box[1] : box[3], box[0] : box[2]], grey.shape[0]):
            return float(box[0]), float(box[1]), float(box[2]), float(box[3])
        density[area] = 0
    return None


def _tighten(strokes: np.ndarray, top: int, left: int, shape: tuple[int, ...]) -> tuple[int, int, int, int] | None:
    rows, columns = np.flatnonzero(strokes.mean(1) > 0.05), np.flatnonzero(strokes.any(0))
    if len(rows) < 4 or len(columns) < 8:
        return None
    low = max(left + int(columns[0]) - 2, 0), max(top + int(rows[0]) - 2, 0)
    return *low, min(left + int(columns[-1]) + 3, shape[1]), min(top + int(rows[-1]) + 3, shape[0])


def _is_writing(crop: np.ndarray, picture_height: int) -> bool:
    """A low, wide area in two tones, with many strokes side by side."""
    height, width = crop.shape
    if width < 1.5 * height or height > MAX_LINE_HEIGHT * picture_height:
        return False
    low, high = np.percentile(crop, [10, 97])
    ink = crop > (low + high) / 2
    share = min(ink.mean(), 1 - ink.mean())
    within = ink.mean() * crop[ink].var() + (1 - ink.mean()) * crop[~ink].var()
    two_tones = 1 - within / max(float(crop.var()), 1e-6)
    strokes = np.abs(np.diff(ink.astype(int), axis=1)).sum(1)
    middle = strokes[height // 4 : max(3 * height // 4, height // 4 + 1)].mean() / 2
    return bool(share > 0.08 and two_tones > MIN_TWO_TONES and middle >= MIN_STROKES and high - low > 50)
