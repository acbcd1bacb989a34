"""Answers with wrong boxes to read, so that boxes are looked up in the picture and not copied from the box before.

In a perfect answer every box is almost the one of the frame before, and a model that learns from such answers alone
learns to copy: its first box is a guess and all others repeat it. Here the boxes of what it *reads* are moved about and
often stand still, as its own would, while what it has to *write* stays the truth. This is scheduled sampling with an
invented sampler (Bengio et al. 2015), for one token family; it is not part of the paper's recipe.
"""

from __future__ import annotations

import math
import re

import numpy as np

from reward_model.schema import BOX_SCALE
from reward_model.world.video import SIZE

#: Shares of the answers left as they are, and of those whose boxes stand still.
CLEAN, STILL = 0.2, 0.6
#: Standard deviations in pixels: of the whole track, of one box, of one side.
TRACK, BOX, SIDE = 3.0, 1.0, 1.0

_BOXES = '"BBOX": {'
_BOX = re.compile(r"\[(\d+), (\d+), (\d+), (\d+)\]")
_FRAME = re.compile(r'"Frame \d+": ')


def drift_boxes(answer: str, rng: np.random.Generator) -> str:
    """The answer with other boxes: as many, on the same grid of :data:`SIZE` pixels, one in five answers unchanged.

    Args:
        answer: canonical text of turn two. Without boxes it comes back as it is.
        rng: decides; the number of draws depends on the answer alone.
    """
    head, found, tail = answer.partition(_BOXES)
    if not found or rng.random() < CLEAN:
        return answer
    still, first = rng.random() < STILL, 0
    track = rng.normal(0, TRACK, size=2)
    parts = _FRAME.split(tail)
    tracks: list[np.ndarray] = []

    def moved(match: re.Match[str]) -> str:
        nonlocal first
        box = np.array([int(v) for v in match.groups()]) * SIZE / BOX_SCALE
        if len(tracks) <= first:
            tracks.append(box)
        box = tracks[first] if still else box
        first += 1
        shift = np.tile(track + rng.normal(0, BOX, size=2), 2)
        return _on_grid(box + shift + rng.normal(0, SIDE, size=4))

    out = []
    for part in parts:
        first = 0
        out.append(_BOX.sub(moved, part))
    names = _FRAME.findall(tail)
    return head + found + out[0] + "".join(name + part for name, part in zip(names, out[1:], strict=True))


def _on_grid(box: np.ndarray) -> str:
    """A box in pixels as a written one: corners on whole pixels inside the picture, low ones first."""
    low = np.clip(np.round(box[:2]), 0, SIZE - 1)
    high = np.clip(np.round(box[2:]), low + 1, SIZE)
    values = [math.floor(v * BOX_SCALE / SIZE) for v in low] + [math.ceil(v * BOX_SCALE / SIZE) for v in high]
    return str([int(v) for v in values])
