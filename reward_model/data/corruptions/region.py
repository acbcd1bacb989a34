"""Choice of a place for an anomaly: a moving or textured region, followed through the video by template matching.

The region is a rectangle of fixed size. Its confidence in each frame is the weighted correlation of what is there with
what is being followed, so a region that turns away or is covered is reported as lost rather than guessed.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from reward_model.data.corruptions.base import CorruptionError
from reward_model.data.corruptions.footage import Footage
from reward_model.data.corruptions.matching import bell, match
from reward_model.data.corruptions.own_motion import own_motion
from reward_model.data.corruptions.track import TRUSTED, Track
from reward_model.schema import Box, FrameRange

#: Least standard deviation of a region's grey levels: with less there is nothing to follow and nothing to deform.
MIN_TEXTURE = 5.0


def find_region(footage: Footage, rng: np.random.Generator, *, span: FrameRange, need_motion: bool = False) -> Track:
    """A region worth editing inside ``span``: something that moves by itself if there is such a thing, else the most
    textured part near the middle.

    Raises:
        CorruptionError: if nothing moves enough by itself although ``need_motion``, or the picture is even everywhere.
    """
    found, problem = _own_movers(footage, _moving_regions(footage, span), need_motion)
    if need_motion and not found:
        raise CorruptionError(
            f"{problem}; use footage with a moving person or object and a steadier camera, a kind that needs no motion "
            "(bulge, swirl, melt, flicker), or name a region"
        )
    moving = bool(found)
    found = found or _textured_regions(footage, span)
    weights = np.array([score for score, _, _ in found[:MAX_KEPT]])
    order = rng.choice(len(weights), len(weights), replace=False, p=weights / weights.sum())
    tracks = []
    for k in order[:3]:
        tracks.append(follow(footage, found[k][1], found[k][2], moving=moving))
        if len(tracks[-1].trusted()) >= 0.5 * footage.fps:
            return tracks[-1]
    return max(tracks, key=lambda t: len(t.trusted()))


def given_region(footage: Footage, region: Box | tuple[int, Box]) -> Track:
    """Follows a region the caller named: a box on frame 0, or a frame index and the box there."""
    index, box = region if isinstance(region, tuple) else (0, region)
    if not 0 <= index < len(footage.frames):
        raise CorruptionError(f"the region's frame {index} is outside a video of {len(footage.frames)} frames")
    height, width = footage.frames.shape[1:3]
    pixels = np.array(box.to_pixels(width, height)).reshape(2, 2)
    small = (pixels * footage.scale).ravel()
    return follow(footage, index, (small[0], small[1], small[2], small[3]), moving=True)


def follow(footage: Footage, anchor: int, box: tuple[float, float, float, float], *, moving: bool) -> Track:
    """Follows a box ``(xmin, ymin, xmax, ymax)`` in small pixels from frame ``anchor`` to both ends of the video.

    Raises:
        CorruptionError: if the box holds no texture to follow.
    """
    small = footage.small
    height, width = small.shape[1:]
    size = np.clip(np.round([box[2] - box[0], box[3] - box[1]]).astype(int), 4, [width - 2, height - 2])
    corner = np.clip(np.round(box[:2]).astype(int), 0, np.array([width, height]) - size)
    patch = small[anchor, corner[1] : corner[1] + size[1], corner[0] : corner[0] + size[0]]
    if patch.std() < MIN_TEXTURE:
        raise CorruptionError(
            f"the region holds no texture (grey levels vary by {patch.std():.1f}, {MIN_TEXTURE:.0f} needed); "
            "name a region with detail, or use other footage"
        )
    corners = np.zeros((len(small), 2))
    confidence = np.zeros(len(small))
    corners[anchor], confidence[anchor] = corner, 1.0
    for step in (1, -1):
        _follow(small, patch, anchor, step, corners, confidence)
    # The middle of the matched pixels, in full pixels.
    centre = (corners + size / 2) / footage.scale
    return Track(footage, centre, size / footage.scale, confidence, anchor, moving)


def _follow(
    small: np.ndarray, patch: np.ndarray, anchor: int, step: int, corners: np.ndarray, found: np.ndarray
) -> None:
    """Fills ``corners`` and ``found`` from the anchor on, forwards (step 1) or backwards (-1)."""
    template, weight = patch.copy(), bell(patch.shape)
    position, velocity = corners[anchor].copy(), np.zeros(2)
    reach = max(4, round(0.05 * max(small.shape[1:])))
    stop = len(small) if step > 0 else -1
    for k in range(anchor + step, stop, step):
        where, score, seen, _ = match(small[k], template, weight, position + velocity, reach)
        if score >= TRUSTED:
            velocity = 0.5 * velocity + 0.5 * np.clip(where - position, -reach, reach)
            position = where
            # A slow update follows turns and light; a fast one would let the template creep onto the background.
            if score > 0.7:
                template += 0.15 * (seen - template)
        else:
            velocity *= 0.5
        corners[k], found[k] = position, max(score, 0.0)


Candidate = tuple[float, int, tuple[float, float, float, float]]
#: Moving areas that are looked at more closely, and those of them that are kept to choose from.
MAX_LOOKED_AT, MAX_KEPT = 16, 6
#: Share of the motion looked at that may be a passing camera's: above it, the rest is hardly a thing's own either.
MAX_PASSED = 0.5


def _own_movers(footage: Footage, found: list[Candidate], sure: bool) -> tuple[list[Candidate], str]:
    """The areas that move apart from their surroundings, and what is wrong with the others.

    Args:
        sure: keep only what moves far enough to be seen to, and nothing where most of what moves does so because the
            camera passes it.
    """
    looked = [(area, own_motion(footage, area[1], area[2])) for area in found[:MAX_LOOKED_AT]]
    passed = sum(area[0] for area, motion in looked if motion.passed)
    bad = [m for _, m in looked if m.passed or (sure and not m.enough)]
    if sure and passed > MAX_PASSED * sum(area[0] for area, _ in looked):
        kept = []
    else:
        kept = [area for area, motion in looked if motion not in bad]
    what = f": what seems to, {bad[0].problem}" if bad else " (apart from the camera)"
    return kept[:MAX_KEPT], f"nothing in this video moves by itself{what}"


def _moving_regions(footage: Footage, span: FrameRange) -> list[Candidate]:
    """Connected areas that move by themselves, strongest first."""
    height, width = footage.small.shape[1:]
    low = max(6.0, 0.14 * min(height, width))
    found: list[Candidate] = []
    for index in sorted({round(float(v)) for v in np.linspace(span.start, span.end, 9)[1:-1]}):
        motion = footage.motion(index)
        labels, _ = ndimage.label(
            ndimage.binary_closing(motion > max(2.5, 0.12 * float(motion.max())), np.ones((5, 5)))
        )
        for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
            mass = float(motion[rows, columns][labels[rows, columns] == number].sum())
            middle = (columns.start + columns.stop) / 2, (rows.start + rows.stop) / 2
            # Parts that look the same before and after are missing from the difference: the thing is a little larger.
            sides = np.clip(
                [1.15 * (columns.stop - columns.start), 1.15 * (rows.stop - rows.start)],
                low,
                [0.45 * width, 0.7 * height],
            )
            box = _around(middle, sides, width, height)
            if mass > 10 * low and _texture(footage.small[index], box) >= MIN_TEXTURE:
                found.append((mass, index, box))
    return sorted(found, reverse=True)


def _textured_regions(footage: Footage, span: FrameRange) -> list[Candidate]:
    """Squares with the most detail, those near the middle preferred."""
    index = (span.start + span.end) // 2
    picture = footage.small[index]
    height, width = picture.shape
    side = max(8.0, 0.3 * min(height, width))
    y, x = np.mgrid[:height, :width]
    middle = np.exp(-2 * (((x - width / 2) / width) ** 2 + ((y - height / 2) / height) ** 2))
    # Clipped: one hard border between two even areas is not detail.
    gradient = np.minimum(ndimage.gaussian_gradient_magnitude(picture, 1.0), 12)
    detail = ndimage.uniform_filter(gradient, side * 0.7) * middle
    edge = int(side / 2)
    detail[:edge], detail[-edge:], detail[:, :edge], detail[:, -edge:] = 0, 0, 0, 0
    found: list[Candidate] = []
    for _ in range(4):
        row, column = np.unravel_index(int(detail.argmax()), detail.shape)
        box = _around((float(column), float(row)), np.array([side, side]), width, height)
        if detail[row, column] > 0 and _texture(picture, box) >= MIN_TEXTURE:
            found.append((float(detail[row, column]), index, box))
        detail[max(row - edge, 0) : row + edge, max(column - edge, 0) : column + edge] = 0
    if not found:
        raise CorruptionError("the picture is even everywhere: nothing would show a deformation; use other footage")
    return found


def _around(
    middle: tuple[float, float], sides: np.ndarray, width: int, height: int
) -> tuple[float, float, float, float]:
    x = float(np.clip(middle[0] - sides[0] / 2, 0, width - sides[0]))
    y = float(np.clip(middle[1] - sides[1] / 2, 0, height - sides[1]))
    return x, y, x + float(sides[0]), y + float(sides[1])


def _texture(picture: np.ndarray, box: tuple[float, float, float, float]) -> float:
    left, top, right, bottom = (round(v) for v in box)
    return float(picture[top:bottom, left:right].std())
